"""Token routes and the caller's profile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.response import Response

from accounts.actors import actor_of
from accounts.idempotency import Answer, answer_once
from accounts.models import Membership, Organization
from casola_site.core.clock import now
from casola_site.core.errors import InvalidRequest
from casola_site.core.pagination import page
from casola_site.core.scopes import Scope
from casola_site.core.tenancy import check_organization
from casola_site.core.views import ApiViewSet
from tokens.api.serializers import (
    MeSerializer,
    TokenAnswerSerializer,
    TokenCreatedSerializer,
    TokenCreateSerializer,
    TokenListSerializer,
    TokenSerializer,
)
from tokens.models import ApiToken
from tokens.services import find_token, mint_token, revoke_token

ORGANIZATION = OpenApiParameter("organization_id", str, OpenApiParameter.PATH)
TOKEN = OpenApiParameter("token_id", str, OpenApiParameter.PATH)
PAGING = [
    OpenApiParameter("limit", int, description="1-100, default 20"),
    OpenApiParameter("after", str, description="id of the last row of the page before"),
    OpenApiParameter("order", str, enum=["asc", "desc"]),
]


def expiry(data: dict[str, Any], moment: datetime) -> datetime | None:
    """The moment a new token ends. Raises InvalidRequest when given twice."""
    if "expires_at" in data and "expires_in_days" in data:
        raise InvalidRequest("Give expires_at or expires_in_days, not both", param="expires_at")
    if "expires_at" in data:
        return datetime.fromtimestamp(data["expires_at"], tz=UTC)
    if "expires_in_days" in data:
        return moment + timedelta(days=data["expires_in_days"])
    return None


class TokenViewSet(ApiViewSet):
    """API tokens of the caller's Organization."""

    required_scopes = {
        "GET": Scope.ADMIN_READ,
        "POST": Scope.ADMIN_WRITE,
        "DELETE": Scope.ADMIN_WRITE,
    }
    empty_body_allowed = False

    @extend_schema(
        operation_id="list_tokens",
        summary="List API tokens",
        tags=["Organizations"],
        parameters=[ORGANIZATION, *PAGING],
        responses=TokenListSerializer,
    )
    def list(self, request: Any, organization_id: str) -> Response:
        """Tokens, newest first; secrets are never shown."""
        check_organization(request.auth, organization_id)
        rows = ApiToken.objects.filter(organization_id=request.auth.organization_pk)
        tokens, has_more = page(rows, request.query_params)
        return Response(
            {
                "tokens": TokenSerializer(tokens, many=True).data,
                "has_more": has_more,
                "next_after": tokens[-1].public_id if has_more else None,
            }
        )

    @extend_schema(
        operation_id="create_token",
        summary="Create an API token",
        tags=["Organizations"],
        parameters=[
            ORGANIZATION,
            OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER),
        ],
        request=TokenCreateSerializer,
        responses={201: TokenCreatedSerializer},
    )
    def create(self, request: Any, organization_id: str) -> Response:
        """A new token, never broader than the one that makes it. The secret is shown this once."""
        check_organization(request.auth, organization_id)
        body = TokenCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        organization = Organization.objects.get(pk=request.auth.organization_pk)
        moment = now()

        def make() -> Answer:
            data = body.validated_data
            token, secret = mint_token(
                minted_by=request.auth,
                organization=organization,
                name=data["name"],
                description=data.get("description", ""),
                scopes=data["scopes"],
                allowed_models=data.get("allowed_models"),
                allowed_ips=data.get("allowed_ips"),
                expires_at=expiry(data, moment),
                now=moment,
                by=actor_of(request),
            )
            return 201, {"token": TokenSerializer(token).data, "secret": secret}

        status, answer = answer_once(
            organization=organization,
            route="tokens",
            key=request.headers.get("Idempotency-Key"),
            body=request.data,
            now=moment,
            make=make,
            hide=lambda answer: {**answer, "secret": None},
        )
        return Response(answer, status=status)

    @extend_schema(
        operation_id="get_token",
        summary="One API token",
        tags=["Organizations"],
        parameters=[ORGANIZATION, TOKEN],
        responses=TokenAnswerSerializer,
    )
    def retrieve(self, request: Any, organization_id: str, token_id: str) -> Response:
        """One token."""
        check_organization(request.auth, organization_id)
        token = find_token(organization_pk=request.auth.organization_pk, token_id=token_id)
        return Response({"token": TokenSerializer(token).data})

    @extend_schema(
        operation_id="revoke_token",
        summary="Revoke an API token",
        tags=["Organizations"],
        parameters=[ORGANIZATION, TOKEN],
        responses={200: TokenAnswerSerializer},
    )
    def destroy(self, request: Any, organization_id: str, token_id: str) -> Response:
        """Revoke the token; it opens nothing from the next request on."""
        check_organization(request.auth, organization_id)
        token = find_token(organization_pk=request.auth.organization_pk, token_id=token_id)
        revoked = revoke_token(token=token, now=now(), by=actor_of(request))
        return Response({"token": TokenSerializer(revoked).data})


class MeViewSet(ApiViewSet):
    """The caller's profile."""

    required_scopes = {"GET": Scope.USER_READ}

    @extend_schema(
        operation_id="get_me", summary="Who am I", tags=["Users"], responses=MeSerializer
    )
    def retrieve(self, request: Any) -> Response:
        """The member, the Organization and the token of this request."""
        identity = request.auth
        organization = Organization.objects.select_related("plan").get(pk=identity.organization_pk)
        membership = (
            Membership.objects.select_related("user")
            .filter(organization=organization, user_id=identity.user_pk)
            .first()
        )
        user = membership.user if membership else None
        return Response(
            {
                "user": {
                    "id": user.public_id if user else None,
                    "email": user.email if user else None,
                    "name": user.name if user else None,
                    "role": membership.role if membership else None,
                },
                "organization": {
                    "id": organization.public_id,
                    "name": organization.name,
                    "slug": organization.slug,
                    "plan": organization.plan.code,
                },
                "token": TokenSerializer(ApiToken.objects.get(pk=identity.token_pk)).data,
            }
        )
