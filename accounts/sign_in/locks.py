"""Locks at the admin's door."""

from __future__ import annotations

from datetime import datetime

from axes.models import AccessAttempt
from django.db import transaction
from django.db.models import QuerySet

from accounts.actors import Actor
from accounts.models import User
from accounts.services import Action, note_sign_in


@transaction.atomic
def clear_locks(*, attempts: QuerySet[AccessAttempt], by: Actor, now: datetime) -> int:
    """How many accounts' addresses may try again: all attempts of theirs are forgotten."""
    pairs = set(attempts.values_list("username", "ip_address"))
    for username, address in pairs:
        AccessAttempt.objects.filter(username=username, ip_address=address).delete()
        user = User.objects.filter(email__iexact=username or "").first()
        if user is not None:
            data = {"address": address}
            note_sign_in(action=Action.LOCK_CLEARED, user=user, by=by, now=now, data=data)
    return len(pairs)
