"""Handing over an ownership."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from accounts.actors import actor_of
from accounts.api.base import OrganizationApiViewSet, checked, once
from accounts.api.parameters import IDEMPOTENCY_KEY, ORGANIZATION
from accounts.api.serializers import (
    TransferAnswerSerializer,
    TransferOfferSerializer,
    TransferSerializer,
)
from accounts.idempotency import Answer
from accounts.services import accept_transfer, end_transfer, find_open_transfer, offer_transfer
from casola_site.core.clock import now
from casola_site.core.scopes import Scope

TAGS = ["Organizations"]


class TransferViewSet(OrganizationApiViewSet):
    """The pending offer."""

    @extend_schema(
        operation_id="get_transfer",
        summary="The pending transfer of ownership",
        tags=TAGS,
        parameters=[ORGANIZATION],
        responses=TransferAnswerSerializer,
    )
    def retrieve(self, request: Any, organization_id: str) -> Response:
        """The offer that is open; 404 when there is none."""
        organization = self.organization(request, organization_id)
        transfer = find_open_transfer(organization=organization, now=now())
        return Response({"transfer": TransferSerializer(transfer).data})

    @extend_schema(
        operation_id="offer_transfer",
        summary="Offer one's ownership to a member",
        tags=TAGS,
        parameters=[ORGANIZATION, IDEMPOTENCY_KEY],
        request=TransferOfferSerializer,
        responses={201: TransferAnswerSerializer},
    )
    def create(self, request: Any, organization_id: str) -> Response:
        """An offer for seven days; by an Owner's own token, not by a service account."""
        organization = self.organization(request, organization_id)
        data, by, moment = checked(TransferOfferSerializer, request), actor_of(request), now()

        def make() -> Answer:
            transfer = offer_transfer(
                organization=organization, member_id=data["member_id"], by=by, now=moment
            )
            return 201, {"transfer": TransferSerializer(transfer).data}

        return once(request, route="transfer", now=moment, make=make)

    @extend_schema(
        operation_id="end_transfer",
        summary="Cancel or decline a transfer of ownership",
        tags=TAGS,
        parameters=[ORGANIZATION],
        responses={200: TransferAnswerSerializer},
    )
    def destroy(self, request: Any, organization_id: str) -> Response:
        """An Owner cancels the offer, its recipient declines it."""
        organization = self.organization(request, organization_id)
        transfer = end_transfer(organization=organization, by=actor_of(request), now=now())
        return Response({"transfer": TransferSerializer(transfer).data})


class TransferAcceptViewSet(OrganizationApiViewSet):
    """For the recipient, who may be no more than a Member."""

    required_scopes = {"POST": Scope.USER_WRITE}
    empty_body_allowed = True

    @extend_schema(
        operation_id="accept_transfer",
        summary="Accept a transfer of ownership",
        tags=TAGS,
        parameters=[ORGANIZATION],
        request=None,
        responses={200: TransferAnswerSerializer},
    )
    def create(self, request: Any, organization_id: str) -> Response:
        """The recipient becomes Owner, who offered it becomes Admin; 404 for everybody else."""
        organization = self.organization(request, organization_id)
        transfer = accept_transfer(organization=organization, by=actor_of(request), now=now())
        return Response({"transfer": TransferSerializer(transfer).data})
