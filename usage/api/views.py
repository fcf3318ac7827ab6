"""The usage, the limits and the budget of the token's Organization."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.response import Response

from accounts.actors import actor_of
from accounts.api.base import OrganizationApiViewSet, checked
from accounts.api.budgets import BudgetSerializer
from accounts.api.parameters import ORGANIZATION
from accounts.models import Organization
from accounts.services import change_budget
from casola_site.core.budgets import Budget
from casola_site.core.clock import now
from casola_site.core.scopes import Scope
from usage.api.query import DEFAULT_RANGE, FORMATS, read_query, refuse
from usage.api.serializers import (
    BudgetAnswerSerializer,
    LimitsAnswerSerializer,
    UsageAnswerSerializer,
    csv_header,
    csv_row,
    shown_budget,
    shown_limits,
    shown_usage,
)
from usage.budgets import budget_alerts, budget_state
from usage.periods import RANGES, Granularity
from usage.selectors import GROUPS, Usage, read_usage
from usage.standing import read_standings

MAX_ROWS = 20_000  # of a JSON answer; CSV leaves out the empty ones
CSV_ROWS = 500  # in one piece of a CSV answer

PARAMETERS = [
    ORGANIZATION,
    OpenApiParameter(
        "range",
        str,
        enum=list(RANGES),
        description="up to the present minute, hour or day: `1h` by minute, `6h` and `24h` by "
        f"hour, `7d`, `30d`, `90d` by day; {DEFAULT_RANGE} without `start`",
    ),
    OpenApiParameter(
        "start", str, description="instead of `range`: Unix seconds, ISO date or ISO time with zone"
    ),
    OpenApiParameter("end", str, description="like `start`; the present without it"),
    OpenApiParameter(
        "granularity",
        str,
        enum=[word.value for word in Granularity],
        description="with `start`: the length of a bucket, `day` without it; at most 6 hours by "
        "minute, 31 days by hour, 366 days by day. `start` and `end` are moved outwards to whole "
        "buckets",
    ),
    OpenApiParameter(
        "group_by",
        str,
        description=f"of `day`, {', '.join(f'`{name}`' for name in GROUPS)}; several with commas",
    ),
    OpenApiParameter("format", str, enum=list(FORMATS)),
]


class UsageViewSet(OrganizationApiViewSet):
    """Sums of the ledger."""

    @extend_schema(
        operation_id="get_usage",
        summary="Get usage",
        tags=["Organizations"],
        parameters=PARAMETERS,
        responses={
            (200, "application/json"): UsageAnswerSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
        },
    )
    def retrieve(self, request: Any, organization_id: str) -> HttpResponseBase:
        """Requests, units and money by bucket of time (UTC), up to the last finished request.

        Every bucket has a row for every group that occurs, with zeros where nothing was used; in
        CSV those are left out. The sums are the same in both.
        """
        organization = self.organization(request, organization_id)
        query = read_query(request.query_params, now())
        usage = read_usage(organization=organization, window=query.window, groups=query.groups)
        if query.is_csv:
            return csv_answer(usage)
        if usage.filled_size() > MAX_ROWS:
            message = f"more than {MAX_ROWS} rows: ask for less time, fewer groups or format=csv"
            raise refuse("group_by", message)
        return Response(shown_usage(organization.public_id, usage))


class LimitsViewSet(OrganizationApiViewSet):
    """What the Plan allows, and how much of it is used."""

    @extend_schema(
        operation_id="get_limits",
        summary="Get limits",
        tags=["Organizations"],
        parameters=[ORGANIZATION],
        responses=LimitsAnswerSerializer,
    )
    def retrieve(self, request: Any, organization_id: str) -> Response:
        """Each limit of the organization's plan and what is used of it at this moment."""
        organization = self.organization(request, organization_id)
        return Response(shown_limits(organization, read_standings(organization)))


class BudgetViewSet(OrganizationApiViewSet):
    """What all tokens of the Organization together may spend."""

    required_scopes = {**OrganizationApiViewSet.required_scopes, "PUT": Scope.ADMIN_WRITE}
    empty_body_allowed = False

    @extend_schema(
        operation_id="get_budget",
        summary="Get the budget",
        tags=["Organizations"],
        parameters=[ORGANIZATION],
        responses=BudgetAnswerSerializer,
    )
    def retrieve(self, request: Any, organization_id: str) -> Response:
        """How much is spent, reserved and left, and when it resets; null without a budget."""
        return self._shown(self.organization(request, organization_id))

    @extend_schema(
        operation_id="set_budget",
        summary="Set the budget",
        tags=["Organizations"],
        parameters=[ORGANIZATION],
        request=BudgetSerializer,
        responses=BudgetAnswerSerializer,
    )
    def update(self, request: Any, organization_id: str) -> Response:
        """Limit what the organization spends per period, from the next request on.

        What was spent in the present period counts. Owners and Admins only.
        """
        organization = self.organization(request, organization_id)
        budget = checked(BudgetSerializer, request)
        return self._change(request, organization, budget)

    @extend_schema(
        operation_id="lift_budget",
        summary="Lift the budget",
        tags=["Organizations"],
        parameters=[ORGANIZATION],
        responses={200: BudgetAnswerSerializer},
    )
    def destroy(self, request: Any, organization_id: str) -> Response:
        """Spend without a limit again; tokens keep theirs."""
        return self._change(request, self.organization(request, organization_id), None)

    def _change(self, request: Any, organization: Organization, budget: Budget | None) -> Response:
        moment = now()
        change_budget(organization=organization, budget=budget, by=actor_of(request), now=moment)
        return self._shown(organization)

    @staticmethod
    def _shown(organization: Organization) -> Response:
        moment = now()
        state = budget_state(organization=organization, now=moment)
        alerts = budget_alerts(organization=organization, now=moment)
        return Response(shown_budget(state, alerts))


def csv_answer(usage: Usage) -> StreamingHttpResponse:
    """A file, sent piece by piece."""
    name = f"usage-{usage.window.start:%Y-%m-%d}-{usage.window.granularity}.csv"
    return StreamingHttpResponse(
        csv_pieces(usage),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def csv_pieces(usage: Usage) -> AsyncIterator[bytes]:
    """The header and the rows."""
    for first in range(0, max(1, len(usage.rows)), CSV_ROWS):
        text = io.StringIO()
        lines = csv.writer(text)
        if first == 0:
            lines.writerow(csv_header(usage))
        lines.writerows(csv_row(row) for row in usage.rows[first : first + CSV_ROWS])
        yield text.getvalue().encode()
