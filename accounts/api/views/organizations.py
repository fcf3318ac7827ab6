"""The token's Organization, and making another one."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from accounts.actors import actor_of
from accounts.api.base import OrganizationApiViewSet, checked, once, own_organization
from accounts.api.parameters import IDEMPOTENCY_KEY, ORGANIZATION
from accounts.api.serializers import (
    OrganizationAnswerSerializer,
    OrganizationChangeSerializer,
    OrganizationCreateSerializer,
    OrganizationListSerializer,
    OrganizationSerializer,
)
from accounts.idempotency import Answer
from accounts.services import change_organization, open_organization
from casola_site.core.clock import now

TAGS = ["Organizations"]


class OrganizationListViewSet(OrganizationApiViewSet):
    """What the token opens."""

    @extend_schema(
        operation_id="list_organizations",
        summary="List organizations",
        tags=TAGS,
        responses=OrganizationListSerializer,
    )
    def list(self, request: Any) -> Response:
        """The organizations that this token opens: its own, and no other of its member's."""
        rows = [OrganizationSerializer(own_organization(request)).data]
        return Response({"organizations": rows, "has_more": False, "next_after": None})

    @extend_schema(
        operation_id="create_organization",
        summary="Create an organization",
        tags=TAGS,
        parameters=[IDEMPOTENCY_KEY],
        request=OrganizationCreateSerializer,
        responses={201: OrganizationAnswerSerializer},
    )
    def create(self, request: Any) -> Response:
        """A new organization on the first plan; the token's member becomes its Owner.

        This token does not open it: sign in and create a token there. A service account, which has
        no member, gets 403.
        """
        data, by, moment = checked(OrganizationCreateSerializer, request), actor_of(request), now()

        def make() -> Answer:
            made = open_organization(name=data["name"], by=by, now=moment)
            return 201, {"organization": OrganizationSerializer(made).data}

        return once(request, route="organizations", now=moment, make=make)


class OrganizationViewSet(OrganizationApiViewSet):
    """One Organization."""

    @extend_schema(
        operation_id="get_organization",
        summary="One organization",
        tags=TAGS,
        parameters=[ORGANIZATION],
        responses=OrganizationAnswerSerializer,
    )
    def retrieve(self, request: Any, organization_id: str) -> Response:
        """Name, slug and plan."""
        row = self.organization(request, organization_id)
        return Response({"organization": OrganizationSerializer(row).data})

    @extend_schema(
        operation_id="change_organization",
        summary="Rename an organization",
        tags=TAGS,
        parameters=[ORGANIZATION],
        request=OrganizationChangeSerializer,
        responses=OrganizationAnswerSerializer,
    )
    def partial_update(self, request: Any, organization_id: str) -> Response:
        """Change the name, the slug or both; the slug does not follow the name."""
        row = self.organization(request, organization_id)
        data = checked(OrganizationChangeSerializer, request)
        row = change_organization(
            organization=row,
            name=data.get("name"),
            slug=data.get("slug"),
            by=actor_of(request),
            now=now(),
        )
        return Response({"organization": OrganizationSerializer(row).data})
