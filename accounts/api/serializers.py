"""Bodies of the organization routes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from accounts.actors import ActorKind
from accounts.models import (
    INVITABLE,
    AuditEvent,
    Invite,
    InviteStatus,
    Membership,
    Organization,
    OrganizationStatus,
    OwnershipTransfer,
    Role,
    TransferStatus,
)
from casola_site.core.clock import now, unix
from casola_site.core.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictIntegerField,
    StrictSerializer,
)

MAX_ID = 64


class StrictChoiceField(StrictCharField):
    """One of some words, which the schema lists in the help text."""

    def __init__(self, words: list[str], **options: Any) -> None:
        self.words = words
        super().__init__(help_text=", ".join(words), **options)

    def to_internal_value(self, data: Any) -> str:
        """Refuse other words."""
        value = super().to_internal_value(data)
        if value not in self.words:
            raise serializers.ValidationError(f"must be one of {', '.join(self.words)}")
        return value


# -- what comes in ----------------------------------------------------------------------------


class OrganizationCreateSerializer(StrictSerializer):
    """A further Organization of the token's member."""

    name = StrictCharField(max_length=120)


class OrganizationChangeSerializer(StrictSerializer):
    """What is to change."""

    name = StrictCharField(max_length=120, required=False)
    slug = StrictCharField(max_length=60, required=False, help_text="a-z, 0-9 and single hyphens")


class RoleChangeSerializer(StrictSerializer):
    """The new role."""

    role = StrictChoiceField(Role.values)


class InviteCreateSerializer(StrictSerializer):
    """Whom to invite: an address, or (without one) whoever holds the link."""

    email = StrictCharField(max_length=254, required=False)
    role = StrictChoiceField(INVITABLE)
    multi_use = StrictBooleanField(required=False, default=False)
    max_uses = StrictIntegerField(required=False, min_value=1, max_value=10_000)


class InviteAcceptSerializer(StrictSerializer):
    """The secret at the end of the link."""

    token = StrictCharField(max_length=200)


class TransferOfferSerializer(StrictSerializer):
    """Who is to become Owner."""

    member_id = StrictCharField(max_length=MAX_ID)


# -- what goes out ----------------------------------------------------------------------------


class OrganizationSerializer(serializers.Serializer):
    """An Organization."""

    id = serializers.CharField()
    name = serializers.CharField()
    slug = serializers.CharField()
    plan = serializers.CharField()
    status = serializers.ChoiceField(OrganizationStatus.choices)
    is_personal = serializers.BooleanField()
    created_at = serializers.IntegerField()

    def to_representation(self, instance: Organization) -> dict[str, Any]:
        """Times as Unix seconds."""
        return {
            "id": instance.public_id,
            "name": instance.name,
            "slug": instance.slug,
            "plan": instance.plan.code,
            "status": instance.status,
            "is_personal": instance.is_personal,
            "created_at": unix(instance.created_at),
        }


class MemberSerializer(serializers.Serializer):
    """A member; the id is the User's."""

    id = serializers.CharField()
    email = serializers.CharField()
    name = serializers.CharField()
    role = serializers.ChoiceField(Role.choices)
    created_at = serializers.IntegerField()

    def to_representation(self, instance: Membership) -> dict[str, Any]:
        """Times as Unix seconds."""
        return {
            "id": instance.user.public_id,
            "email": instance.user.email,
            "name": instance.user.name,
            "role": instance.role,
            "created_at": unix(instance.created_at),
        }


class InviteSerializer(serializers.Serializer):
    """An Invite: never its secret."""

    id = serializers.CharField()
    email = serializers.CharField(allow_null=True)
    role = serializers.ChoiceField(Role.choices)
    status = serializers.ChoiceField(InviteStatus.choices)
    multi_use = serializers.BooleanField()
    max_uses = serializers.IntegerField(allow_null=True)
    uses = serializers.IntegerField()
    created_by = serializers.CharField(allow_null=True)
    created_at = serializers.IntegerField()
    expires_at = serializers.IntegerField()
    revoked_at = serializers.IntegerField(allow_null=True)
    mailed_at = serializers.IntegerField(allow_null=True)

    def to_representation(self, instance: Invite) -> dict[str, Any]:
        """Times as Unix seconds."""
        return {
            "id": instance.public_id,
            "email": instance.email or None,
            "role": instance.role,
            "status": str(instance.status_at(now())),
            "multi_use": instance.multi_use,
            "max_uses": instance.max_uses,
            "uses": instance.uses,
            "created_by": instance.created_by.public_id if instance.created_by else None,
            "created_at": unix(instance.created_at),
            "expires_at": unix(instance.expires_at),
            "revoked_at": unix(instance.revoked_at),
            "mailed_at": unix(instance.mailed_at),
        }


class TransferSerializer(serializers.Serializer):
    """An offered ownership."""

    id = serializers.CharField()
    from_member = serializers.CharField()
    to_member = serializers.CharField()
    status = serializers.ChoiceField(TransferStatus.choices)
    created_at = serializers.IntegerField()
    expires_at = serializers.IntegerField()
    ended_at = serializers.IntegerField(allow_null=True)

    def to_representation(self, instance: OwnershipTransfer) -> dict[str, Any]:
        """Times as Unix seconds."""
        return {
            "id": instance.public_id,
            "from_member": instance.from_user.public_id,
            "to_member": instance.to_user.public_id,
            "status": instance.status,
            "created_at": unix(instance.created_at),
            "expires_at": unix(instance.expires_at),
            "ended_at": unix(instance.ended_at),
        }


class AuditActorSerializer(serializers.Serializer):
    """Who did it; of support staff no more than that."""

    kind = serializers.ChoiceField(ActorKind.choices)
    id = serializers.CharField(allow_null=True)
    name = serializers.CharField(allow_null=True)


class AuditEventSerializer(serializers.Serializer):
    """One change."""

    id = serializers.CharField()
    created_at = serializers.IntegerField()
    action = serializers.CharField()
    actor = AuditActorSerializer()
    on_behalf_of = serializers.CharField(allow_null=True)
    target = serializers.CharField(allow_null=True)
    target_name = serializers.CharField(allow_null=True)
    reason = serializers.CharField(allow_null=True)
    ip = serializers.CharField(allow_null=True)
    request_id = serializers.CharField(allow_null=True)
    data = serializers.DictField()

    def to_representation(self, instance: AuditEvent) -> dict[str, Any]:
        """Times as Unix seconds, empty texts as null; staff stay unnamed."""
        is_staff = instance.actor_kind == ActorKind.STAFF
        return {
            "id": instance.public_id,
            "created_at": unix(instance.created_at),
            "action": instance.action,
            "actor": {
                "kind": instance.actor_kind,
                "id": None if is_staff else instance.actor_id or None,
                "name": "support" if is_staff else instance.actor_name or None,
            },
            "on_behalf_of": instance.on_behalf_of or None,
            "target": instance.target or None,
            "target_name": instance.target_name or None,
            "reason": instance.reason or None,
            "ip": None if is_staff else instance.ip or None,
            "request_id": instance.request_id or None,
            "data": instance.data,
        }


# -- answers ----------------------------------------------------------------------------------


class PageSerializer(serializers.Serializer):
    """What every page ends with."""

    has_more = serializers.BooleanField()
    next_after = serializers.CharField(allow_null=True)


class OrganizationAnswerSerializer(serializers.Serializer):
    """One Organization."""

    organization = OrganizationSerializer()


class OrganizationListSerializer(PageSerializer):
    """The Organizations a token opens."""

    organizations = OrganizationSerializer(many=True)


class MemberAnswerSerializer(serializers.Serializer):
    """One member."""

    member = MemberSerializer()


class MemberListSerializer(PageSerializer):
    """A page of members."""

    members = MemberSerializer(many=True)


class InviteAnswerSerializer(serializers.Serializer):
    """One Invite."""

    invite = InviteSerializer()


class InviteCreatedSerializer(InviteAnswerSerializer):
    """An Invite with its secret and link, which are shown this once."""

    token = serializers.CharField(allow_null=True)
    url = serializers.CharField(allow_null=True)


class InviteListSerializer(PageSerializer):
    """A page of Invites."""

    invites = InviteSerializer(many=True)


class InviteAcceptedSerializer(MemberAnswerSerializer, OrganizationAnswerSerializer):
    """The member that the Invite made, and where."""


class TransferAnswerSerializer(serializers.Serializer):
    """One transfer."""

    transfer = TransferSerializer()


class AuditListSerializer(PageSerializer):
    """A page of the audit."""

    events = AuditEventSerializer(many=True)
