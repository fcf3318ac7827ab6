"""Bodies of the token routes."""

from __future__ import annotations

import ipaddress
from typing import Any

from rest_framework import serializers

from accounts.api.budgets import BudgetSerializer, BudgetStateSerializer
from casola_site.core.budgets import shown_state
from casola_site.core.clock import now, unix
from casola_site.core.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictIntegerField,
    StrictSerializer,
)
from casola_site.core.scopes import PRESETS
from tokens.models import ApiToken, ShownStatus

MAX_LIST = 100
LIFTABLE = ("allowed_models", "allowed_ips", "expires_at", "budget")


class StrictListField(serializers.ListField):
    """A list of strict strings."""

    child = StrictCharField(max_length=200)


class TokenFieldsSerializer(StrictSerializer):
    """What is chosen at creation and can be changed later."""

    name = StrictCharField(max_length=120)
    description = StrictCharField(max_length=500, required=False, allow_blank=True)
    scopes = StrictListField(required=False, max_length=8)
    preset = StrictCharField(required=False, max_length=40, help_text=", ".join(PRESETS))
    allowed_models = StrictListField(required=False, max_length=MAX_LIST)
    allowed_ips = StrictListField(required=False, max_length=MAX_LIST)
    expires_at = StrictIntegerField(
        required=False, min_value=1, max_value=253_402_300_799, help_text="Unix seconds"
    )
    expires_in_days = StrictIntegerField(required=False, min_value=1, max_value=3650)
    budget = BudgetSerializer(required=False)

    def validate_allowed_ips(self, value: list[str]) -> list[str]:
        """Addresses or networks."""
        for text in value:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise serializers.ValidationError("must hold IP addresses or networks") from None
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One of a pair."""
        for one, other in (("preset", "scopes"), ("expires_at", "expires_in_days")):
            if one in attrs and other in attrs:
                raise serializers.ValidationError({one: f"give {one} or {other}, not both"})
        return attrs


class TokenCreateSerializer(TokenFieldsSerializer):
    """A new token. Give `scopes` or a `preset`."""

    service_account = StrictBooleanField(
        required=False, help_text="Nobody's own: it stays when its maker leaves"
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Exactly one of scopes and preset."""
        attrs = super().validate(attrs)
        if "scopes" not in attrs and "preset" not in attrs:
            raise serializers.ValidationError(
                {"scopes": serializers.ErrorDetail("required", "required")}
            )
        return attrs


class TokenChangeSerializer(TokenFieldsSerializer):
    """What is to change; `null` lifts a list, an expiry or a budget."""

    name = StrictCharField(max_length=120, required=False)
    allowed_models = StrictListField(required=False, max_length=MAX_LIST, allow_null=True)
    allowed_ips = StrictListField(required=False, max_length=MAX_LIST, allow_null=True)
    expires_at = StrictIntegerField(
        required=False,
        min_value=1,
        max_value=253_402_300_799,
        allow_null=True,
        help_text="Unix seconds",
    )
    budget = BudgetSerializer(required=False, allow_null=True)

    def run_validation(self, data: Any = serializers.empty) -> dict[str, Any]:
        """Keep the nulls that lift something; others are as if absent."""
        values = super().run_validation(data)
        lifted = {name: None for name in LIFTABLE if isinstance(data, dict) and name in data}
        if lifted.get("expires_at", "") is None and "expires_in_days" in values:
            lifted.pop("expires_at")
        return {**lifted, **values}


class TokenRotateSerializer(StrictSerializer):
    """How long the present secret goes on working."""

    grace_seconds = StrictIntegerField(
        required=False, default=0, min_value=0, max_value=7 * 24 * 3600
    )


class TokenSerializer(serializers.Serializer):
    """A token as it is shown: never its secret."""

    id = serializers.CharField(source="public_id")
    name = serializers.CharField()
    description = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    status = serializers.ChoiceField(ShownStatus.choices)
    service_account = serializers.BooleanField()
    created_by = serializers.CharField(allow_null=True)
    prefix = serializers.CharField()
    last_four = serializers.CharField()
    allowed_models = serializers.ListField(child=serializers.CharField(), allow_null=True)
    allowed_ips = serializers.ListField(child=serializers.CharField(), allow_null=True)
    budget = BudgetStateSerializer(allow_null=True)
    created_at = serializers.IntegerField()
    expires_at = serializers.IntegerField(allow_null=True)
    last_used_at = serializers.IntegerField(allow_null=True)
    revoked_at = serializers.IntegerField(allow_null=True)
    rotated_at = serializers.IntegerField(allow_null=True)
    previous_secret_until = serializers.IntegerField(
        allow_null=True, help_text="End of the grace of the secret before the last rotation"
    )

    def to_representation(self, instance: ApiToken) -> dict[str, Any]:
        """Times as Unix seconds; `budgets` in the context says how they stand."""
        moment = now()
        state = self.context.get("budgets", {}).get(instance.pk)
        return {
            "id": instance.public_id,
            "name": instance.name,
            "description": instance.description,
            "scopes": instance.scopes,
            "status": instance.shown_status(moment).value,
            "service_account": instance.is_service_account,
            "created_by": instance.created_by.public_id if instance.created_by else None,
            "prefix": instance.prefix,
            "last_four": instance.last_four,
            "allowed_models": instance.allowed_models,
            "allowed_ips": instance.allowed_ips,
            "budget": None if state is None else shown_state(state),
            "created_at": unix(instance.created_at),
            "expires_at": unix(instance.expires_at),
            "last_used_at": unix(instance.last_used_at),
            "revoked_at": unix(instance.revoked_at),
            "rotated_at": unix(instance.rotated_at),
            "previous_secret_until": unix(instance.previous_until),
        }


class TokenAnswerSerializer(serializers.Serializer):
    """One token."""

    token = TokenSerializer()


class TokenCreatedSerializer(TokenAnswerSerializer):
    """A new token and its secret, which is shown this once."""

    secret = serializers.CharField(allow_null=True)


class TokenListSerializer(serializers.Serializer):
    """A page of tokens."""

    tokens = TokenSerializer(many=True)
    has_more = serializers.BooleanField()
    next_after = serializers.CharField(allow_null=True)


class PresetSerializer(serializers.Serializer):
    """A name for some scopes."""

    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())


class PresetListSerializer(serializers.Serializer):
    """What `preset` may be here."""

    presets = PresetSerializer(many=True)


class OrganizationBriefSerializer(serializers.Serializer):
    """The caller's Organization."""

    id = serializers.CharField()
    name = serializers.CharField()
    slug = serializers.CharField()
    plan = serializers.CharField()


class ProfileSerializer(serializers.Serializer):
    """The caller."""

    id = serializers.CharField(allow_null=True)
    email = serializers.CharField(allow_null=True)
    name = serializers.CharField(allow_null=True)
    role = serializers.CharField(allow_null=True)


class MeSerializer(serializers.Serializer):
    """Who the token speaks for and what it may do."""

    user = ProfileSerializer()
    organization = OrganizationBriefSerializer()
    token = TokenSerializer()
