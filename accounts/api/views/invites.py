"""Invites of the token's Organization, and accepting one."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from accounts.actors import actor_of
from accounts.api.base import OrganizationApiViewSet, checked, once
from accounts.api.parameters import IDEMPOTENCY_KEY, INVITE, ORGANIZATION, PAGING
from accounts.api.serializers import (
    InviteAcceptedSerializer,
    InviteAcceptSerializer,
    InviteAnswerSerializer,
    InviteCreatedSerializer,
    InviteCreateSerializer,
    InviteListSerializer,
    InviteSerializer,
    MemberSerializer,
    OrganizationSerializer,
)
from accounts.idempotency import Answer
from accounts.models import Invite
from accounts.services import (
    InviteTerms,
    accept_invite_as,
    create_invite,
    join_url,
    resend_invite,
    revoke_invite,
)
from casola_site.core.clock import now
from casola_site.core.network import base_url
from casola_site.core.pagination import page
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet

TAGS = ["Organizations"]


def created(invite: Invite, token: str, base: str) -> dict[str, Any]:
    """The one answer that holds the secret."""
    return {
        "invite": InviteSerializer(invite).data,
        "token": token,
        "url": join_url(base, token),
    }


class InviteViewSet(OrganizationApiViewSet):
    """Ways into the Organization."""

    @extend_schema(
        operation_id="list_invites",
        summary="List invites",
        tags=TAGS,
        parameters=[ORGANIZATION, *PAGING],
        responses=InviteListSerializer,
    )
    def list(self, request: Any, organization_id: str) -> Response:
        """Invites, the newest first, with used, expired and revoked ones."""
        organization = self.organization(request, organization_id)
        rows = Invite.objects.select_related("created_by").filter(organization=organization)
        invites, has_more = page(rows, request.query_params)
        shown = InviteSerializer(invites, many=True).data
        return Response(
            {
                "invites": shown,
                "has_more": has_more,
                "next_after": shown[-1]["id"] if has_more else None,
            }
        )

    @extend_schema(
        operation_id="create_invite",
        summary="Invite somebody",
        tags=TAGS,
        parameters=[ORGANIZATION, IDEMPOTENCY_KEY],
        request=InviteCreateSerializer,
        responses={201: InviteCreatedSerializer},
    )
    def create(self, request: Any, organization_id: str) -> Response:
        """Invite an address (by mail, for that verified address only) or make an open link.

        Works for seven days. The role is never above the inviter's. The secret and the link are
        shown this once.
        """
        organization = self.organization(request, organization_id)
        data, by, moment = checked(InviteCreateSerializer, request), actor_of(request), now()
        base = base_url(request)

        def make() -> Answer:
            invite, token = create_invite(
                organization=organization,
                terms=InviteTerms(**data),
                base_url=base,
                by=by,
                now=moment,
            )
            return 201, created(invite, token, base)

        return once(
            request,
            route="invites",
            now=moment,
            make=make,
            hide=lambda answer: {**answer, "token": None, "url": None},
        )

    @extend_schema(
        operation_id="revoke_invite",
        summary="Revoke an invite",
        tags=TAGS,
        parameters=[ORGANIZATION, INVITE],
        responses={200: InviteAnswerSerializer},
    )
    def destroy(self, request: Any, organization_id: str, invite_id: str) -> Response:
        """Make the invite worthless; who has accepted it stays."""
        organization = self.organization(request, organization_id)
        invite = revoke_invite(
            organization=organization, invite_id=invite_id, by=actor_of(request), now=now()
        )
        return Response({"invite": InviteSerializer(invite).data})


class InviteResendViewSet(OrganizationApiViewSet):
    """The same Invite with a new secret."""

    empty_body_allowed = True

    @extend_schema(
        operation_id="resend_invite",
        summary="Send an invite again",
        tags=TAGS,
        parameters=[ORGANIZATION, INVITE],
        request=None,
        responses={200: InviteCreatedSerializer},
    )
    def create(self, request: Any, organization_id: str, invite_id: str) -> Response:
        """A new secret for seven more days; the old one opens nothing any more."""
        organization = self.organization(request, organization_id)
        base = base_url(request)
        invite, token = resend_invite(
            organization=organization,
            invite_id=invite_id,
            base_url=base,
            by=actor_of(request),
            now=now(),
        )
        return Response(created(invite, token, base))


class InviteAcceptViewSet(ApiViewSet):
    """For the invited person, whatever Organization their token is of."""

    required_scopes = {"POST": Scope.USER_WRITE}

    @extend_schema(
        operation_id="accept_invite",
        summary="Accept an invite",
        tags=TAGS,
        request=InviteAcceptSerializer,
        responses={200: InviteAcceptedSerializer},
    )
    def create(self, request: Any) -> Response:
        """The token's member joins the inviting organization; accepting twice is harmless.

        This token does not open that organization. A service account, which has no member, gets
        403, and so does a member whose verified address is not the invite's.
        """
        data = checked(InviteAcceptSerializer, request)
        member = accept_invite_as(token=data["token"], by=actor_of(request), now=now())
        return Response(
            {
                "member": MemberSerializer(member).data,
                "organization": OrganizationSerializer(member.organization).data,
            }
        )
