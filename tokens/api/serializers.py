"""Bodies of the token routes."""

from __future__ import annotations

import ipaddress
from typing import Any

from rest_framework import serializers

from casola_site.core.clock import unix
from casola_site.core.fields import StrictCharField, StrictIntegerField, StrictSerializer
from casola_site.core.scopes import PRESETS
from tokens.models import ApiToken

MAX_LIST = 100


class StrictListField(serializers.ListField):
    """A list of strict strings."""

    child = StrictCharField(max_length=200)


class TokenCreateSerializer(StrictSerializer):
    """A new token. Give `scopes` or a `preset`."""

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

    def validate_preset(self, value: str) -> str:
        """One of ours."""
        if value not in PRESETS:
            raise serializers.ValidationError(f"must be one of {', '.join(PRESETS)}")
        return value

    def validate_allowed_ips(self, value: list[str]) -> list[str]:
        """Addresses or networks."""
        for text in value:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise serializers.ValidationError("must hold IP addresses or networks") from None
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Exactly one of scopes and preset."""
        if "preset" in attrs:
            attrs["scopes"] = [str(scope) for scope in PRESETS[attrs.pop("preset")]]
        if "scopes" not in attrs:
            raise serializers.ValidationError(
                {"scopes": serializers.ErrorDetail("required", "required")}
            )
        return attrs


class TokenSerializer(serializers.Serializer):
    """A token as it is shown: never its secret."""

    id = serializers.CharField(source="public_id")
    name = serializers.CharField()
    description = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    status = serializers.CharField()
    prefix = serializers.CharField()
    last_four = serializers.CharField()
    allowed_models = serializers.ListField(child=serializers.CharField(), allow_null=True)
    allowed_ips = serializers.ListField(child=serializers.CharField(), allow_null=True)
    created_at = serializers.IntegerField()
    expires_at = serializers.IntegerField(allow_null=True)
    last_used_at = serializers.IntegerField(allow_null=True)
    revoked_at = serializers.IntegerField(allow_null=True)

    def to_representation(self, instance: ApiToken) -> dict[str, Any]:
        """Times as Unix seconds."""
        return {
            "id": instance.public_id,
            "name": instance.name,
            "description": instance.description,
            "scopes": instance.scopes,
            "status": instance.status,
            "prefix": instance.prefix,
            "last_four": instance.last_four,
            "allowed_models": instance.allowed_models,
            "allowed_ips": instance.allowed_ips,
            "created_at": unix(instance.created_at),
            "expires_at": unix(instance.expires_at),
            "last_used_at": unix(instance.last_used_at),
            "revoked_at": unix(instance.revoked_at),
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
