"""Token routes and the caller's profile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.response import Response

from accounts.actors import actor_of
from accounts.api.base import OrganizationApiViewSet, checked, once
from accounts.idempotency import Answer
from accounts.models import Membership, Organization
from casola_site.core.clock import now
from casola_site.core.pagination import page
from casola_site.core.scopes import Scope, presets
from casola_site.core.tenancy import check_organization
from casola_site.core.views import ApiViewSet
from tokens.api.serializers import (
    MeSerializer,
    PresetListSerializer,
    TokenAnswerSerializer,
    TokenChangeSerializer,
    TokenCreatedSerializer,
    TokenCreateSerializer,
    TokenListSerializer,
    TokenRotateSerializer,
    TokenSerializer,
)
from tokens.models import ApiToken
from tokens.selectors import budget_states
from tokens.services import (
    change_token,
    find_token,
    mint_token,
    revoke_token,
    rotate_token,
    scopes_of_preset,
)

ORGANIZATION = OpenApiParameter("organization_id", str, OpenApiParameter.PATH)
TOKEN = OpenApiParameter("token_id", str, OpenApiParameter.PATH)
PAGING = [
    OpenApiParameter("limit", int, description="1-100, default 20"),
    OpenApiParameter("after", str, description="id of the last row of the page before"),
    OpenApiParameter("order", str, enum=["asc", "desc"]),
]


IDEMPOTENCY = OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)


def columns(
    data: dict[str, Any], *, organization: Organization, moment: datetime
) -> dict[str, Any]:
    """A checked body as columns: the preset's scopes, the moment of expiry."""
    values = dict(data)
    if (preset := values.pop("preset", None)) is not None:
        values["scopes"] = scopes_of_preset(preset, organization=organization)
    if values.get("expires_at") is not None:
        values["expires_at"] = datetime.fromtimestamp(values["expires_at"], tz=UTC)
    if (days := values.pop("expires_in_days", None)) is not None:
        values["expires_at"] = moment + timedelta(days=days)
    return values


def shown_tokens(tokens: Sequence[ApiToken]) -> list[dict[str, Any]]:
    """Tokens as every answer shows them."""
    budgets = budget_states(tokens, now())
    return TokenSerializer(tokens, many=True, context={"budgets": budgets}).data


def shown_token(token: ApiToken) -> dict[str, Any]:
    """One of them."""
    return shown_tokens([token])[0]


def hide_secret(answer: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an answer for its Idempotency-Key."""
    return {**answer, "secret": None}


def own_token(request: Any, organization_id: str, token_id: str) -> ApiToken:
    """The token of the path. Raises OrganizationNotFound or TokenNotFound."""
    check_organization(request.auth, organization_id)
    return find_token(organization_pk=request.auth.organization_pk, token_id=token_id)


class TokenViewSet(OrganizationApiViewSet):
    """API tokens of the caller's Organization."""

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
        rows = ApiToken.objects.select_related("created_by").filter(
            organization_id=request.auth.organization_pk
        )
        tokens, has_more = page(rows, request.query_params)
        return Response(
            {
                "tokens": shown_tokens(tokens),
                "has_more": has_more,
                "next_after": tokens[-1].public_id if has_more else None,
            }
        )

    @extend_schema(
        operation_id="create_token",
        summary="Create an API token",
        tags=["Organizations"],
        parameters=[ORGANIZATION, IDEMPOTENCY],
        request=TokenCreateSerializer,
        responses={201: TokenCreatedSerializer},
    )
    def create(self, request: Any, organization_id: str) -> Response:
        """A new token, never broader than the one that makes it. The secret is shown this once."""
        organization = self.organization(request, organization_id)
        moment = now()
        data = columns(
            checked(TokenCreateSerializer, request), organization=organization, moment=moment
        )

        def make() -> Answer:
            token, secret = mint_token(
                minted_by=request.auth,
                organization=organization,
                by=actor_of(request),
                now=moment,
                **{"allowed_models": None, "allowed_ips": None, "expires_at": None, **data},
            )
            return 201, {"token": shown_token(token), "secret": secret}

        return once(request, route="tokens", now=moment, make=make, hide=hide_secret)

    @extend_schema(
        operation_id="get_token",
        summary="One API token",
        tags=["Organizations"],
        parameters=[ORGANIZATION, TOKEN],
        responses=TokenAnswerSerializer,
    )
    def retrieve(self, request: Any, organization_id: str, token_id: str) -> Response:
        """One token."""
        token = own_token(request, organization_id, token_id)
        return Response({"token": shown_token(token)})

    @extend_schema(
        operation_id="change_token",
        summary="Change an API token",
        tags=["Organizations"],
        parameters=[ORGANIZATION, TOKEN],
        request=TokenChangeSerializer,
        responses=TokenAnswerSerializer,
    )
    def partial_update(self, request: Any, organization_id: str, token_id: str) -> Response:
        """Change name, description, scopes, allow-lists, expiry or budget, from now on.

        What the token gains must stay within the token that asks and, for scopes, within the role
        of the member it belongs to.
        """
        token = own_token(request, organization_id, token_id)
        moment = now()
        changes = columns(
            checked(TokenChangeSerializer, request),
            organization=token.organization,
            moment=moment,
        )
        changed = change_token(
            token=token, changes=changes, caller=request.auth, by=actor_of(request), now=moment
        )
        return Response({"token": shown_token(changed)})

    @extend_schema(
        operation_id="revoke_token",
        summary="Revoke an API token",
        tags=["Organizations"],
        parameters=[ORGANIZATION, TOKEN],
        responses={200: TokenAnswerSerializer},
    )
    def destroy(self, request: Any, organization_id: str, token_id: str) -> Response:
        """Revoke the token; it opens nothing from the next request on."""
        token = own_token(request, organization_id, token_id)
        revoked = revoke_token(token=token, now=now(), by=actor_of(request))
        return Response({"token": shown_token(revoked)})


class TokenRotateViewSet(OrganizationApiViewSet):
    """A token's new secret."""

    empty_body_allowed = True

    @extend_schema(
        operation_id="rotate_token",
        summary="Rotate an API token",
        tags=["Organizations"],
        parameters=[ORGANIZATION, TOKEN, IDEMPOTENCY],
        request=TokenRotateSerializer,
        responses={200: TokenCreatedSerializer},
    )
    def create(self, request: Any, organization_id: str, token_id: str) -> Response:
        """A new secret, shown this once; the present one works until the grace ends.

        A member's token is rotated with a token of that member; the caller may not be narrower than
        what it rotates.
        """
        token = own_token(request, organization_id, token_id)
        grace = timedelta(seconds=checked(TokenRotateSerializer, request)["grace_seconds"])
        moment = now()

        def make() -> Answer:
            rotated, secret = rotate_token(
                token=token, grace=grace, caller=request.auth, by=actor_of(request), now=moment
            )
            return 200, {"token": shown_token(rotated), "secret": secret}

        route = f"tokens/{token.public_id}/rotate"
        return once(request, route=route, now=moment, make=make, hide=hide_secret)


class PresetViewSet(OrganizationApiViewSet):
    """Names for scopes."""

    @extend_schema(
        operation_id="list_token_presets",
        summary="List token presets",
        tags=["Organizations"],
        parameters=[ORGANIZATION],
        responses=PresetListSerializer,
    )
    def list(self, request: Any, organization_id: str) -> Response:
        """What `preset` may be when a token is made or changed."""
        organization = self.organization(request, organization_id)
        known = presets(is_system=organization.is_system)
        shown = [{"name": name, "scopes": list(scopes)} for name, scopes in known.items()]
        return Response({"presets": shown})


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
                "token": shown_token(ApiToken.objects.get(pk=identity.token_pk)),
            }
        )
