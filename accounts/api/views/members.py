"""Members of the token's Organization."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from accounts.actors import actor_of
from accounts.api.base import OrganizationApiViewSet, checked
from accounts.api.parameters import MEMBER, ORGANIZATION, PAGING
from accounts.api.serializers import (
    MemberAnswerSerializer,
    MemberListSerializer,
    MemberSerializer,
    RoleChangeSerializer,
)
from accounts.models import Membership
from accounts.services import change_role, remove_member
from casola_site.core.clock import now
from casola_site.core.pagination import page

TAGS = ["Organizations"]


class MemberViewSet(OrganizationApiViewSet):
    """Who belongs to it."""

    @extend_schema(
        operation_id="list_members",
        summary="List members",
        tags=TAGS,
        parameters=[ORGANIZATION, *PAGING],
        responses=MemberListSerializer,
    )
    def list(self, request: Any, organization_id: str) -> Response:
        """Members, the newest first, disabled ones included."""
        organization = self.organization(request, organization_id)
        rows = Membership.objects.select_related("user").filter(organization=organization)
        members, has_more = page(rows, request.query_params, key="user__public_id")
        shown = MemberSerializer(members, many=True).data
        return Response(
            {
                "members": shown,
                "has_more": has_more,
                "next_after": shown[-1]["id"] if has_more else None,
            }
        )

    @extend_schema(
        operation_id="change_member",
        summary="Change a member's role",
        tags=TAGS,
        parameters=[ORGANIZATION, MEMBER],
        request=RoleChangeSerializer,
        responses=MemberAnswerSerializer,
    )
    def partial_update(self, request: Any, organization_id: str, member_id: str) -> Response:
        """Give the member another role; `disabled` shuts them out and keeps them listed.

        It holds for their tokens from the next request on. Only an Owner may change an Owner or
        make one. 409 for the last Owner.
        """
        organization = self.organization(request, organization_id)
        data = checked(RoleChangeSerializer, request)
        row = change_role(
            organization=organization,
            member_id=member_id,
            role=data["role"],
            by=actor_of(request),
            now=now(),
        )
        return Response({"member": MemberSerializer(row).data})

    @extend_schema(
        operation_id="remove_member",
        summary="Remove a member",
        tags=TAGS,
        parameters=[ORGANIZATION, MEMBER],
        responses={200: MemberAnswerSerializer},
    )
    def destroy(self, request: Any, organization_id: str, member_id: str) -> Response:
        """End the membership and revoke the member's tokens; service accounts stay."""
        organization = self.organization(request, organization_id)
        row = remove_member(
            organization=organization, member_id=member_id, by=actor_of(request), now=now()
        )
        return Response({"member": MemberSerializer(row).data})
