"""Telling people how far a budget is used: at 50, 80 and 100 percent, and when it first refuses.

The alert is a row, written once with what it tells of. After the commit a background function mails
it; a sweep enqueues that again for what was not mailed.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial
from smtplib import SMTPException

from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import Q, QuerySet
from django.template.loader import render_to_string

from accounts.models import Membership, Role
from accounts.services.authority import MANAGERS
from casola_site.core import queue
from casola_site.core.budgets import CURRENCY, plain
from usage.models import THRESHOLDS, BudgetAlert, BudgetCounter, amount_of_nanos

logger = logging.getLogger(__name__)

MAIL = "usage.background.mail_budget_alerts"
TRY_AGAIN = timedelta(minutes=10)  # longer than one try can take
GIVE_UP = timedelta(days=1)


def note_spending(counter: BudgetCounter, now: datetime) -> None:
    """Write the alerts that the counter's spending calls for. The caller holds and saves it."""
    reached = [t for t in THRESHOLDS if counter.spent * 100 >= counter.amount * t]
    _note(counter, [t for t in reached if t > counter.alerted], now)


def note_refusal(*, counter_id: int, now: datetime) -> None:
    """The budget had no room for a request: the first such in a period counts as 100 percent."""
    with transaction.atomic():
        locked = BudgetCounter.objects.select_for_update(no_key=True).filter(pk=counter_id)
        counter = locked.filter(alerted__lt=THRESHOLDS[-1]).first()
        if counter is None:
            return
        counter.roll(now)
        _note(counter, [t for t in THRESHOLDS if t > counter.alerted], now, is_refusal=True)
        counter.save(update_fields=["spent", "alerted", "period_start"])


def _note(
    counter: BudgetCounter, thresholds: list[int], now: datetime, *, is_refusal: bool = False
) -> None:
    if not thresholds:
        return
    counter.alerted = thresholds[-1]
    BudgetAlert.objects.bulk_create(
        [
            BudgetAlert(
                counter=counter,
                period_start=counter.period_start,
                amount=counter.amount,
                threshold=threshold,
                spent=counter.spent,
                is_refusal=is_refusal,
                created_at=now,
            )
            for threshold in thresholds
        ],
        ignore_conflicts=True,  # what was told stays told
    )
    # What cannot be enqueued now, the sweep enqueues.
    transaction.on_commit(partial(queue.enqueue, MAIL, counter.pk), robust=True)


def unsent(now: datetime) -> QuerySet[BudgetAlert]:
    """Alerts nobody is mailing at the moment."""
    idle = Q(tried_at=None) | Q(tried_at__lt=now - TRY_AGAIN)
    return BudgetAlert.objects.filter(idle, mailed_at=None, created_at__gt=now - GIVE_UP)


def enqueue_unsent(now: datetime) -> int:
    """Have mailed what was left over; returns for how many budgets."""
    left = unsent(now).filter(created_at__lt=now - timedelta(minutes=1))
    counters = list(left.values_list("counter_id", flat=True).distinct())
    for counter_id in counters:
        queue.enqueue(MAIL, counter_id)
    return len(counters)


def mail_alerts(*, counter_id: int, now: datetime) -> bool:
    """Mail what is unsent of one budget, the highest threshold standing for all; False: nothing.

    Taking the rows is one update, so that of two callers one mails. A mail that cannot be sent is
    tried again by the sweep.
    """
    with transaction.atomic():
        mine = list(unsent(now).filter(counter_id=counter_id).select_for_update())
        BudgetAlert.objects.filter(pk__in=[alert.pk for alert in mine]).update(tried_at=now)
    if not mine:
        return False
    alert = max(mine, key=lambda one: (one.created_at, one.threshold))
    try:
        _mail(alert, now)
    except (SMTPException, OSError) as error:
        logger.warning("the alerts of budget %s were not mailed: %s", counter_id, error)
        return False
    BudgetAlert.objects.filter(pk__in=[one.pk for one in mine]).update(mailed_at=now)
    return True


def _mail(alert: BudgetAlert, now: datetime) -> None:
    counter = BudgetCounter.objects.select_related("organization", "token__created_by").get(
        pk=alert.counter_id
    )
    addresses = recipients(counter)
    if not addresses:
        return
    context = {
        "alert": alert,
        "counter": counter,
        "organization": counter.organization,
        "token": counter.token,
        "limit": plain(amount_of_nanos(alert.amount)),
        "spent": plain(amount_of_nanos(alert.spent)),
        "currency": CURRENCY,
        "resets_at": counter.state(now).resets_at,
    }
    subject = " ".join(render_to_string("usage/mail/budget_alert_subject.txt", context).split())
    body = render_to_string("usage/mail/budget_alert.txt", context)
    EmailMessage(subject, body, bcc=addresses).send()


def recipients(counter: BudgetCounter) -> list[str]:
    """Addresses of the Organization's Owners and Admins and, for a token, of its member."""
    places = Membership.objects.filter(organization=counter.organization_id, user__is_active=True)
    told = Q(role__in=MANAGERS)
    if counter.token is not None and not counter.token.is_service_account:
        told |= Q(user=counter.token.created_by_id) & ~Q(role=Role.DISABLED)
    return sorted(set(places.filter(told).values_list("user__email", flat=True)))
