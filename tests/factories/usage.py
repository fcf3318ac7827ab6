"""Prices and consumptions."""

from __future__ import annotations

from decimal import Decimal

from django.utils import timezone

from accounts.models import Organization
from casola_site.core import ids
from tests.factories.jobs import MODEL, TASK
from usage.models import Price
from usage.services import Consumption


def make_price(**columns) -> Price:
    """One dollar for every completion token."""
    return Price.objects.create(
        **{
            "model_id": MODEL,
            "unit": "completion_tokens",
            "amount": Decimal(1),
            "per": 1,
            **columns,
        }
    )


def make_consumption(organization: Organization, **columns) -> Consumption:
    """One completion token of a completed Job."""
    return Consumption(
        organization_id=organization.pk,
        **{
            "job_id": str(ids.job_id()),
            "token_id": None,
            "user_id": None,
            "model_id": MODEL,
            "task": TASK,
            "status": "completed",
            "units": {"completion_tokens": 1},
            "charged": True,
            "at": timezone.now(),
            **columns,
        },
    )
