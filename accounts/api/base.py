"""What the views of an Organization share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from rest_framework.response import Response
from rest_framework.serializers import Serializer

from accounts.idempotency import Answer, answer_once
from accounts.models import Organization
from casola_site.core.scopes import Scope
from casola_site.core.tenancy import check_organization
from casola_site.core.views import ApiViewSet


class OrganizationApiViewSet(ApiViewSet):
    """For routes that name an Organization, which must be the token's own."""

    required_scopes = {
        "GET": Scope.ADMIN_READ,
        "POST": Scope.ADMIN_WRITE,
        "PATCH": Scope.ADMIN_WRITE,
        "DELETE": Scope.ADMIN_WRITE,
    }

    def organization(self, request: Any, organization_id: str) -> Organization:
        """The row. Raises OrganizationNotFound."""
        check_organization(request.auth, organization_id)
        return own_organization(request)


def own_organization(request: Any) -> Organization:
    """The Organization of the request's token."""
    return Organization.objects.select_related("plan").get(pk=request.auth.organization_pk)


def checked(serializer: type[Serializer], request: Any) -> dict[str, Any]:
    """The body's values. Raises ValidationError."""
    body = serializer(data=request.data)
    body.is_valid(raise_exception=True)
    return body.validated_data


def once(
    request: Any,
    *,
    route: str,
    now: datetime,
    make: Callable[[], Answer],
    hide: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Response:
    """`make()`'s answer, made once per Idempotency-Key."""
    status, answer = answer_once(
        organization=Organization(pk=request.auth.organization_pk),
        route=route,
        key=request.headers.get("Idempotency-Key"),
        body=request.data,
        now=now,
        make=make,
        hide=hide,
    )
    return Response(answer, status=status)
