"""The usage answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rest_framework import serializers

from accounts.api.budgets import BudgetStateSerializer
from accounts.models import Organization
from casola_site.core.budgets import CURRENCY, BudgetState, shown_state
from casola_site.core.clock import unix
from usage.models import BudgetAlert
from usage.periods import Granularity
from usage.selectors import MEASURES, Row, Sums, Usage
from usage.standing import Standing


def shown_sums(sums: Sums) -> dict[str, Any]:
    """Money as a decimal text."""
    return {**sums, "amount": format(sums["amount"], "f"), "currency": CURRENCY}


def shown_row(row: Row, groups: tuple[str, ...]) -> dict[str, Any]:
    """Bucket, groups, sums."""
    return {
        "start": unix(row.start),
        **dict(zip(groups, row.groups, strict=True)),
        **shown_sums(row.sums),
    }


class UsageSumsSerializer(serializers.Serializer):
    """What was used: ends of jobs, units, money."""

    requests = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    characters = serializers.IntegerField()
    audio_ms = serializers.IntegerField()
    images = serializers.IntegerField()
    pixels = serializers.IntegerField()
    video_ms = serializers.IntegerField()
    compute_ms = serializers.IntegerField()
    amount = serializers.CharField(help_text="a decimal number")
    currency = serializers.CharField()


class UsageRowSerializer(UsageSumsSerializer):
    """The sums of one bucket and one value of each group."""

    start = serializers.IntegerField()
    model = serializers.CharField(required=False)
    task = serializers.CharField(required=False)
    token = serializers.CharField(required=False, allow_null=True)
    member = serializers.CharField(required=False, allow_null=True)
    # Not a choice: the word is a group like the others.
    status = serializers.CharField(required=False)


class OrganizationUsageSerializer(serializers.Serializer):
    """An Organization's usage over a window."""

    organization_id = serializers.CharField()
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    granularity = serializers.ChoiceField([(word.value, word.value) for word in Granularity])
    totals = UsageSumsSerializer()
    data = UsageRowSerializer(many=True)


class UsageAnswerSerializer(serializers.Serializer):
    """The usage."""

    usage = OrganizationUsageSerializer()


class AlertSerializer(serializers.Serializer):
    """That a budget was used to so many percent, or first refused a request (100)."""

    threshold = serializers.IntegerField()
    refused = serializers.BooleanField()
    created_at = serializers.IntegerField()
    mailed_at = serializers.IntegerField(allow_null=True)


class OrganizationBudgetSerializer(BudgetStateSerializer):
    """The Organization's budget, and what was told of it in the present period."""

    alerts = AlertSerializer(many=True)


class BudgetAnswerSerializer(serializers.Serializer):
    """The budget; null: the organization has none."""

    budget = OrganizationBudgetSerializer(allow_null=True)


def shown_budget(state: BudgetState | None, alerts: Sequence[BudgetAlert]) -> dict[str, Any]:
    """The answer of the budget route."""
    if state is None:
        return {"budget": None}
    told = [
        {
            "threshold": alert.threshold,
            "refused": alert.is_refusal,
            "created_at": unix(alert.created_at),
            "mailed_at": unix(alert.mailed_at),
        }
        for alert in alerts
    ]
    return {"budget": {**shown_state(state), "alerts": told}}


def shown_usage(organization_id: str, usage: Usage) -> dict[str, Any]:
    """The answer."""
    return {
        "usage": {
            "organization_id": organization_id,
            "start": unix(usage.window.start),
            "end": unix(usage.window.end),
            "granularity": usage.window.granularity.value,
            "totals": shown_sums(usage.totals()),
            "data": [shown_row(row, usage.groups) for row in usage.filled()],
        }
    }


def csv_header(usage: Usage) -> list[str]:
    """The columns of `csv_row`."""
    return ["start", "start_at", *usage.groups, *MEASURES, "currency"]


def csv_row(row: Row) -> list[Any]:
    """Unix seconds and the same in ISO 8601, groups, sums."""
    sums = shown_sums(row.sums)
    return [
        unix(row.start),
        row.start.isoformat().replace("+00:00", "Z"),
        *["" if value is None else value for value in row.groups],
        *[sums[name] for name in MEASURES],
        sums["currency"],
    ]


class StandingSerializer(serializers.Serializer):
    """One limit."""

    name = serializers.CharField(
        help_text="api_request, job_submission, running_requests, streams, waiting_requests, "
        "sockets, running_jobs, queued_jobs or storage_bytes"
    )
    scope = serializers.CharField(help_text="whose limit it is: organization")
    value = serializers.IntegerField(allow_null=True, help_text="null: no limit")
    used = serializers.IntegerField(
        allow_null=True, help_text="null: without a limit nothing is counted"
    )
    period = serializers.CharField(
        allow_null=True, help_text="minute: what was used within 60 seconds; null: at this moment"
    )
    resets_at = serializers.IntegerField(
        allow_null=True, help_text="when the first of what was used within the period leaves it"
    )


class OrganizationLimitsSerializer(serializers.Serializer):
    """An Organization's limits."""

    organization_id = serializers.CharField()
    plan = serializers.CharField()
    data = StandingSerializer(many=True)


class LimitsAnswerSerializer(serializers.Serializer):
    """The limits."""

    limits = OrganizationLimitsSerializer()


def shown_limits(organization: Organization, standings: list[Standing]) -> dict[str, Any]:
    """The answer."""
    data = [{"scope": "organization", **asdict(standing)} for standing in standings]
    return {
        "limits": {
            "organization_id": organization.public_id,
            "plan": organization.plan.code,
            "data": data,
        }
    }
