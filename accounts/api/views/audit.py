"""The audit of the token's Organization."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.response import Response

from accounts.api.base import OrganizationApiViewSet
from accounts.api.parameters import ORGANIZATION, PAGING
from accounts.api.serializers import AuditEventSerializer, AuditListSerializer
from accounts.models import AuditEvent
from casola_site.core.pagination import page

ACTION = OpenApiParameter("action", str, description="such as `member.removed`")


class AuditViewSet(OrganizationApiViewSet):
    """Who changed what."""

    @extend_schema(
        operation_id="list_audit",
        summary="List the audit",
        tags=["Organizations"],
        parameters=[ORGANIZATION, ACTION, *PAGING],
        responses=AuditListSerializer,
    )
    def list(self, request: Any, organization_id: str) -> Response:
        """Changes of members, invites, tokens, plan and status, the newest first."""
        organization = self.organization(request, organization_id)
        rows = AuditEvent.objects.filter(organization=organization)
        action = request.query_params.get("action")
        if action:
            rows = rows.filter(action=action.replace("\x00", ""))
        events, has_more = page(rows, request.query_params)
        shown = AuditEventSerializer(events, many=True).data
        return Response(
            {
                "events": shown,
                "has_more": has_more,
                "next_after": shown[-1]["id"] if has_more else None,
            }
        )
