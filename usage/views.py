"""The usage page: the API's sums, to look at and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render

from accounts.actors import actor_of
from accounts.models import Role, User
from accounts.navigation import reaches
from accounts.permissions import MemberRequest, member_page
from accounts.services import RoleTooLow, change_budget
from casola_site.core.budgets import plain
from casola_site.core.clock import now
from casola_site.core.forms import posted
from tokens.models import ApiToken
from usage.api.query import DEFAULT_RANGE, UsageQuery, read_query
from usage.api.views import csv_answer
from usage.budgets import budget_state
from usage.forms import BudgetForm
from usage.models import CURRENCY, UNITS
from usage.periods import Granularity
from usage.selectors import GROUPS, Row, Usage, read_usage
from usage.standing import read_standings

MOST_ROWS = 500  # shown; the file has them all
ALWAYS = ("prompt_tokens", "completion_tokens", "compute_ms")  # columns also when all are zero
ASKED = ("range", "start", "end", "granularity", "group_by")
RANGE_WORDS = {
    "1h": "Hour",
    "6h": "6 hours",
    "24h": "Day",
    "7d": "7 days",
    "30d": "30 days",
    "90d": "90 days",
}
STANDING_WORDS = {
    "api_request": "API requests",
    "job_submission": "Job submissions",
    "running_requests": "Requests running",
    "streams": "Open streams",
    "waiting_requests": "Requests waiting",
    "sockets": "Event connections",
    "running_jobs": "Jobs running",
    "queued_jobs": "Jobs queued",
    "storage_bytes": "Files kept",
}
NOBODY = {"member": "service account", "token": "no token"}
TIMES = {
    Granularity.MINUTE: "%Y-%m-%d %H:%M",
    Granularity.HOUR: "%Y-%m-%d %H:%M",
    Granularity.DAY: "%Y-%m-%d",
}
BAR, HEIGHT = 10, 100  # of the drawing, in its own measure


@dataclass(frozen=True, slots=True)
class Bar:
    """One bucket in the drawing: completed at the bottom, other ends above."""

    x: float
    completed: float
    others: float
    label: str

    @property
    def completed_y(self) -> float:
        """Where the lower part begins, from above."""
        return HEIGHT - self.completed

    @property
    def others_y(self) -> float:
        """Where the upper part begins."""
        return HEIGHT - self.completed - self.others


@member_page(Role.VIEWER)
def usage(request: MemberRequest) -> HttpResponse:
    """Totals, a drawing, and a table of the buckets in which something was used."""
    moment = now()
    query, found = _read(request, moment)
    totals = found.totals()
    units = [name for name in UNITS if name in ALWAYS or totals[name]]
    chosen = request.GET.get("range", DEFAULT_RANGE if "start" not in request.GET else "")
    context: dict[str, Any] = {
        "totals": totals,
        "currency": CURRENCY,
        "units": units,
        "rows": _rows(request, found, units),
        "is_cut": len(found.rows) > MOST_ROWS,
        "most_rows": MOST_ROWS,
        "groups": query.groups,
        "bars": _bars(found),
        "width": BAR * found.window.size,
        "window": found.window,
        "moment": moment,
        "ranges": [
            (words, _link(request.GET, range=name), name == chosen)
            for name, words in RANGE_WORDS.items()
        ],
        "group_links": [
            (
                name or "nothing",
                _link(request.GET, group_by=name),
                query.groups == (name,) * bool(name),
            )
            for name in ("", *_groups(request))
        ],
        "csv": _link(request.GET),
        "may_call": reaches(request.membership.role, Role.MEMBER),
    }
    return render(request, "usage/usage.html", context)


@member_page(Role.VIEWER)
def usage_csv(request: MemberRequest) -> HttpResponseBase:
    """The same as a file, with every row."""
    return csv_answer(_read(request, now())[1])


@member_page(Role.VIEWER, methods="GET POST")
def limits(request: MemberRequest) -> HttpResponse:
    """How much of each limit and of the budget is used; Owners and Admins change the budget."""
    may_change = reaches(request.membership.role, Role.ADMIN)
    if request.method == "POST" and not may_change:
        raise RoleTooLow("Only Owners and Admins may do this")
    moment, organization = now(), request.organization
    budget = organization.budget
    initial = (
        {}
        if budget is None
        else {"budget_amount": plain(budget.amount), "budget_period": budget.period}
    )
    form = BudgetForm(posted(request), initial=initial)
    if form.is_bound and form.is_valid():
        changed = form.carry_out(
            change_budget,
            organization=organization,
            budget=form.budget(),
            by=actor_of(request),
            now=moment,
        )
        if changed is not None:
            messages.success(request, "Saved. It counts from the next request on.")
            return redirect("limits")
    context = {
        "form": form,
        "may_change": may_change,
        "budget": budget_state(organization=organization, now=moment),
        "plan": organization.plan,
        "standings": [
            (
                STANDING_WORDS.get(row.name, row.name),
                row,
                row.resets_at and datetime.fromtimestamp(row.resets_at, UTC),
            )
            for row in read_standings(organization)
        ],
    }
    return render(request, "usage/limits.html", context, status=400 if form.errors else 200)


def _read(request: MemberRequest, moment: Any) -> tuple[UsageQuery, Usage]:
    """As the API reads and answers it. Raises InvalidRequest, or RoleTooLow for others' shares."""
    query = read_query(_asked(request.GET), moment)
    if not set(query.groups) <= set(_groups(request)):
        raise RoleTooLow("Only Owners and Admins may see who used what")
    found = read_usage(organization=request.organization, window=query.window, groups=query.groups)
    return query, found


def _groups(request: MemberRequest) -> list[str]:
    """What the member may group by: tokens and members are for those who manage them."""
    manages = reaches(request.membership.role, Role.ADMIN)
    return [name for name in GROUPS if manages or name not in NOBODY]


def _asked(params: Mapping[str, str]) -> dict[str, str]:
    return {name: params[name] for name in ASKED if name in params}


def _link(params: Mapping[str, str], **changed: str) -> str:
    """The page's query with something else in it; a range takes the place of start and end."""
    asked = {**_asked(params), **changed}
    if "range" in changed:
        asked = {name: asked[name] for name in ("range", "group_by") if name in asked}
    return urlencode({name: value for name, value in asked.items() if value})


def _rows(request: MemberRequest, found: Usage, units: list[str]) -> list[dict[str, Any]]:
    names = _names(request, found)
    shape = TIMES[found.window.granularity]
    return [
        {
            "start": row.start,
            "at": row.start.strftime(shape),
            "groups": [
                (group.capitalize(), names.get((group, value), value))
                for group, value in zip(found.groups, row.groups, strict=True)
            ],
            "sums": row.sums,
            "units": [(name, row.sums[name]) for name in units],
        }
        for row in found.rows[: -MOST_ROWS - 1 : -1]
    ]


def _names(request: MemberRequest, found: Usage) -> dict[tuple[str, str | None], str]:
    """What people call the tokens and members that occur."""
    names: dict[tuple[str, str | None], str] = {(key, None): word for key, word in NOBODY.items()}
    for place, group in enumerate(found.groups):
        ids = {row.groups[place] for row in found.rows}
        if group == "token":
            rows = ApiToken.objects.filter(organization=request.organization, public_id__in=ids)
            names |= {("token", row.public_id): str(row) for row in rows}
        if group == "member":
            people = User.objects.filter(public_id__in=ids)
            names |= {("member", row.public_id): row.email for row in people}
    return names


def _bars(found: Usage) -> list[Bar]:
    """One for each bucket, as high as its requests compare with the highest."""
    by_start: dict[Any, list[Row]] = {}
    for row in found.rows:
        by_start.setdefault(row.start, []).append(row)
    sums = [
        (start, [sum(row.sums[name] for row in by_start.get(start, [])) for name in COUNTED])
        for start in found.window.buckets()
    ]
    most = max((requests for _, (requests, _) in sums), default=0) or 1
    shape = TIMES[found.window.granularity]
    return [
        Bar(
            x=number * BAR + 1,
            completed=round(completed / most * HEIGHT, 1),
            others=round((requests - completed) / most * HEIGHT, 1),
            label=f"{start.strftime(shape)}: {requests}",
        )
        for number, (start, (requests, completed)) in enumerate(sums)
    ]


COUNTED = ("requests", "completed")
