"""Serializer fields that do not coerce: a numeric text is no number, true is no integer."""

from __future__ import annotations

import functools
import math
from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from rest_framework import serializers


class StrictIntegerField(serializers.IntegerField):
    """A JSON integer."""

    default_error_messages = {"invalid": "must be an integer"}

    def to_internal_value(self, data: Any) -> int:
        """Refuse everything that is not an int (also true, "7" and 1.0)."""
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return data


class StrictFloatField(serializers.FloatField):
    """A JSON number, finite."""

    default_error_messages = {"invalid": "must be a number"}

    def to_internal_value(self, data: Any) -> float:
        """Refuse texts and booleans."""
        if isinstance(data, bool) or not isinstance(data, int | float):
            self.fail("invalid")
        try:
            value = float(data)
        except OverflowError:
            self.fail("invalid")
        if not math.isfinite(value):
            self.fail("invalid")
        return value


class StrictBooleanField(serializers.BooleanField):
    """true or false."""

    default_error_messages = {"invalid": "must be true or false"}

    def to_internal_value(self, data: Any) -> bool:
        """Refuse 0, 1 and words."""
        if not isinstance(data, bool):
            self.fail("invalid")
        return data


class StrictCharField(serializers.CharField):
    """A JSON string, kept as it is (not trimmed)."""

    default_error_messages = {"invalid": "must be a string"}

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trim_whitespace", False)
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Refuse numbers, which DRF would turn into text."""
        if not isinstance(data, str):
            self.fail("invalid")
        return data


class StrictChoiceField(serializers.ChoiceField):
    """A JSON string out of a few; what was sent instead is not repeated."""

    def to_internal_value(self, data: Any) -> str:
        """Refuse everything else."""
        if not isinstance(data, str) or data not in self.choices:
            words = ", ".join(self.choices)
            raise serializers.ValidationError(f"must be one of {words}", code="invalid_value")
        return data


class Optional:
    """Mixin: an explicit null is the same as an absent field."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        """Drop null values of optional fields before checking."""
        fields = self.fields  # type: ignore[attr-defined]
        if isinstance(data, dict):
            data = {
                key: value
                for key, value in data.items()
                if value is not None or (key in fields and fields[key].required)
            }
        return super().run_validation(data)  # type: ignore[misc]

    @functools.cached_property
    def _checks(self) -> list[tuple[Any, Any, bool]]:
        """(field, the serializer's own check of it, whether it may be passed over when absent)."""
        return [
            (
                field,
                getattr(self, f"validate_{field.field_name}", None),
                not field.required and field.default is serializers.empty and field.source != "*",
            )
            for field in self._writable_fields  # type: ignore[attr-defined]
        ]

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """DRF's own, but absent optional fields (of a chat request most) cost nothing."""
        if not isinstance(data, dict):
            return super().to_internal_value(data)  # type: ignore[misc]
        values: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for field, check, is_optional in self._checks:
            name = field.field_name
            if is_optional and name not in data:
                continue
            try:
                value = field.run_validation(data.get(name, serializers.empty))
                if check is not None:
                    value = check(value)
            except serializers.ValidationError as error:
                found[name] = error.detail
            except DjangoValidationError as error:
                found[name] = serializers.get_error_detail(error)
            except serializers.SkipField:
                continue
            else:
                self.set_value(values, field.source_attrs, value)  # type: ignore[attr-defined]
        if found:
            raise serializers.ValidationError(found)
        return values


class StrictSerializer(Optional, serializers.Serializer):
    """Strict fields, tolerant of unknown ones, null means absent."""

    default_error_messages = {"invalid": "must be an object"}
