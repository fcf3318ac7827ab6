"""How many Jobs of an Organization may be processing: its Plan's `max_running_jobs`, over all queues.

Exact under concurrent claims because an Organization with a cap is claimed for by one transaction
at a time. Nobody waits for that: whoever finds it taken claims for the others and comes again.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable

from django.db import connection, transaction
from django.db.models import Case, Count, F, QuerySet, When

from accounts.models import Organization, OrganizationStatus
from jobs import events
from jobs.enums import JobStatus
from jobs.models import Job

Waiting = dict[int, int | None]

_WAITING = """
WITH RECURSIVE waiting(organization_id) AS (
    SELECT min(organization_id) FROM jobs_job WHERE status = 'pending' AND queue_id = %s
    UNION ALL
    SELECT (SELECT min(organization_id) FROM jobs_job
            WHERE status = 'pending' AND queue_id = %s AND organization_id > waiting.organization_id)
    FROM waiting WHERE waiting.organization_id IS NOT NULL
) SELECT organization_id,
         CASE WHEN organization.status = 'active' THEN plan.max_running_jobs ELSE 0 END
  FROM waiting
  JOIN accounts_organization organization ON organization.id = waiting.organization_id
  JOIN accounts_plan plan ON plan.id = organization.plan_id
"""
_TURNS = "SELECT pk FROM unnest(%s::bigint[]) AS pk WHERE pg_try_advisory_xact_lock(%s + pk)"
_TURN = 0x636C61696D << 20  # so far from other advisory locks


def organizations_waiting(queue_id: str) -> Waiting:
    """Organizations with a pending Job in the queue, and their caps: one index probe for each.

    A suspended one may have none processing: its Jobs wait until it is unsuspended.
    """
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, [queue_id, queue_id])
        return dict(cursor.fetchall())


def waiting_in(jobs: QuerySet[Job]) -> Waiting:
    """The same of any Jobs."""
    cap = Case(
        When(
            organization__status=OrganizationStatus.ACTIVE,
            then=F("organization__plan__max_running_jobs"),
        ),
        default=0,
    )
    return dict(jobs.values_list("organization_id", cap).order_by().distinct())


def capped(waiting: Waiting) -> dict[int, int]:
    """Those that have a cap."""
    return {key: cap for key, cap in waiting.items() if cap is not None}


def rooms(caps: dict[int, int]) -> dict[int, int]:
    """How many Jobs more each may have processing. Only an answer for those whose turn is held."""
    if not caps:
        return {}
    running = dict(
        Job.objects.filter(organization_id__in=caps, status=JobStatus.PROCESSING)
        .values_list("organization_id")
        .annotate(Count("pk"))
    )
    return {key: max(0, cap - running.get(key, 0)) for key, cap in caps.items()}


def has_room(waiting: Waiting) -> bool:
    """Whether one of them may have another Job processing."""
    with_cap = capped(waiting)
    return len(with_cap) < len(waiting) or any(rooms(with_cap).values())


def within(room: dict[int, int], taken: Iterable[tuple[uuid.UUID, int]]) -> list[uuid.UUID]:
    """Of Jobs and their Organizations, the first ones that there is room for."""
    left, kept = dict(room), []
    for pk, organization_id in taken:
        if organization_id in left:
            if not left[organization_id]:
                continue
            left[organization_id] -= 1
        kept.append(pk)
    return kept


def take_turns(organization_ids: Collection[int]) -> set[int]:
    """Those for which nobody else claims before this transaction has ended."""
    if connection.vendor != "postgresql":
        return set(organization_ids)  # a transaction of SQLite is alone anyway
    with connection.cursor() as cursor:
        cursor.execute(_TURNS, [list(organization_ids), _TURN])
        return {row[0] for row in cursor.fetchall()}


def rooms_in_turn(caps: dict[int, int]) -> dict[int, int]:
    """`rooms`, to be relied on until the transaction ends; 0 where it is another's turn."""
    turns = take_turns(caps) if caps else set()
    return {**dict.fromkeys(caps, 0), **rooms({key: caps[key] for key in turns})}


def wake_held_back(ended: Iterable[tuple[int, str]]) -> None:
    """After the commit, wake the queues of Jobs that ended where a cap may have held others back.

    `ended`: Organization and queue of each. What waits in another queue is found by polling.
    """
    by_organization: dict[int, set[str]] = defaultdict(set)
    for organization_id, queue_id in ended:
        by_organization[organization_id].add(queue_id)

    def wake() -> None:
        rows = Organization.objects.filter(
            pk__in=by_organization, plan__max_running_jobs__isnull=False
        )
        for queue_id in {
            q for pk in rows.values_list("pk", flat=True) for q in by_organization[pk]
        }:
            events.wake(queue_id)

    if by_organization:
        transaction.on_commit(wake, robust=True)
