"""The promises about Jobs and usage as queries over the tables and over what clients saw.

`violations` returns one sentence for each broken promise; run it when nothing is under way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Query = Callable[[str], list[tuple[Any, ...]]]
TERMINAL = ("completed", "failed", "cancelled")


@dataclass
class Seen:
    """One interactive answer as its caller saw it."""

    job_id: str = ""
    status: int = 0
    text: str = ""
    tokens: int | None = None
    reason: str | None = None
    error: dict[str, Any] | None = None
    is_done: bool = False
    retry_after: str | None = None
    began: float = 0.0
    ended: float = 0.0
    failure: str = ""

    @property
    def is_whole(self) -> bool:
        """An answer without error, to its last word."""
        return self.status == 200 and self.reason is not None and self.error is None


@dataclass
class Journal:
    """What clients were told; safe in threads."""

    accepted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    keys: dict[str, set[str]] = field(default_factory=dict)
    answers: list[Seen] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, job_id: str, key: str | None = None) -> None:
        with self.lock:
            self.accepted.append(job_id)
            if key is not None:
                self.keys.setdefault(key, set()).add(job_id)

    def cancel(self, job_id: str) -> None:
        with self.lock:
            self.cancelled.append(job_id)

    def answer(self, seen: Seen) -> None:
        with self.lock:
            self.answers.append(seen)

    def status(self, code: int) -> None:
        with self.lock:
            self.statuses[code] = self.statuses.get(code, 0) + 1


# Each query lists the Jobs that break a promise.
PROMISES = {
    "I1 a job has not ended": """
        SELECT id, status FROM jobs_job WHERE status NOT IN ('completed', 'failed', 'cancelled')""",
    "I3 a job was completed twice": """
        SELECT job_id, count(*) FROM jobs_jobevent WHERE type = 'completed'
        GROUP BY job_id HAVING count(*) > 1""",
    "I4 something happened to a job after its end": """
        SELECT later.job_id, later.type FROM jobs_jobevent later JOIN jobs_jobevent ending
        ON later.job_id = ending.job_id AND later.seq > ending.seq
        WHERE ending.type IN ('completed', 'failed', 'cancelled')""",
    "I4 the last event is not the job's end": """
        SELECT job.id, job.status FROM jobs_job job WHERE job.lane = 'persisted'
        AND NOT EXISTS (SELECT 1 FROM jobs_jobevent e WHERE e.job_id = job.id AND e.type = job.status)""",
    "I5 an ended job has not exactly one usage record": """
        SELECT job.id, count(usage.id) FROM jobs_job job
        LEFT JOIN usage_usagerecord usage ON {usage_job} = job.id
        WHERE job.status IN ('completed', 'failed', 'cancelled')
        GROUP BY job.id HAVING count(usage.id) <> 1""",
    "I5 a usage record has no ended job of that status": """
        SELECT usage.job_id, usage.status FROM usage_usagerecord usage
        LEFT JOIN jobs_job job ON {usage_job} = job.id
        WHERE job.id IS NULL OR job.status <> usage.status""",
    "I5 job and usage record differ in units": """
        SELECT job.id, job.units, usage.completion_tokens FROM jobs_job job
        JOIN usage_usagerecord usage ON {usage_job} = job.id
        WHERE coalesce({units_tokens}, 0) <> usage.completion_tokens""",
    "I5 an end that is our fault was charged": """
        SELECT job.id, job.error, usage.amount FROM jobs_job job
        JOIN usage_usagerecord usage ON {usage_job} = job.id
        WHERE job.status = 'failed' AND usage.amount <> 0""",
    "I7 a completed job has no result": """
        SELECT id FROM jobs_job
        WHERE lane = 'persisted' AND status = 'completed' AND result IS NULL""",
    "I8 not the last attempt finished a job": """
        SELECT job.id, job.attempts, e.data FROM jobs_job job JOIN jobs_jobevent e ON e.job_id = job.id
        WHERE e.type = 'completed' AND {event_attempt} <> job.attempts""",
    "I9 a job was tried more often than it may": """
        SELECT job.id, job.attempts, job.crashes FROM jobs_job job
        WHERE job.lane = 'persisted' AND (job.crashes > 3 OR job.failures > 3 OR job.attempts > 1 + (
            SELECT count(*) FROM jobs_jobevent e
            WHERE e.job_id = job.id AND e.type IN ('crashed', 'released', 'retried')))""",
    "I12 a job is held by a runner without a lease": """
        SELECT job.id, runner.state FROM jobs_job job LEFT JOIN jobs_runner runner
        ON runner.id = job.runner_id WHERE job.status = 'processing'
        AND (runner.id IS NULL OR runner.state IN ('dead', 'stopped'))""",
    "B1 more was spent than a budget allows": """
        SELECT id, amount, spent, reserved FROM usage_budgetcounter
        WHERE spent + reserved > amount""",
    "B2 what is reserved is not what requests hold": """
        SELECT counter.id, counter.reserved, coalesce(sum(held.amount), 0)
        FROM usage_budgetcounter counter
        LEFT JOIN usage_budgetreservation held ON held.counter_id = counter.id
        GROUP BY counter.id HAVING counter.reserved <> coalesce(sum(held.amount), 0)""",
    "B2 an ended job still holds a reservation": """
        SELECT held.job_id, held.amount FROM usage_budgetreservation held
        JOIN usage_usagerecord usage ON usage.job_id = held.job_id""",
    "B3 what is spent is not what the ledger charges": """
        SELECT counter.id, counter.spent, coalesce(sum(usage.amount), 0)
        FROM usage_budgetcounter counter LEFT JOIN usage_usagerecord usage
        ON usage.organization_id = counter.organization_id
        AND (counter.token_id IS NULL OR usage.token_id = counter.token_id)
        AND usage.created_at >= counter.period_start
        GROUP BY counter.id HAVING counter.spent <> coalesce(sum(usage.amount), 0) * 1000000000""",
}
PARTS = {
    "usage_job": "usage.job_id::uuid",
    "units_tokens": "(job.units ->> 'completion_tokens')::bigint",
    "event_attempt": "(e.data ->> 'attempt')::int",
}


def violations(query: Query, journal: Journal | None = None) -> list[str]:
    """Every broken promise; empty when all hold."""
    found = []
    for name, sql in PROMISES.items():
        rows = query(sql.format(**PARTS))
        found += [f"{name}: {row}" for row in rows[:5]]
        if len(rows) > 5:
            found.append(f"{name}: and {len(rows) - 5} more")
    return found + (_against_journal(query, journal) if journal else [])


def _against_journal(query: Query, journal: Journal) -> list[str]:
    rows = query("SELECT id, status, {units_tokens} FROM jobs_job job".format(**PARTS))
    status = {str(row[0]): row[1] for row in rows}
    units = {str(row[0]): row[2] for row in rows}
    found = [f"I1 accepted, but there is no job {i}" for i in journal.accepted if i not in status]
    found += [f"I2 key {key} made {ids}" for key, ids in journal.keys.items() if len(ids) > 1]
    found += [
        f"I6 {i} was cancelled, but is {status.get(i)}"
        for i in journal.cancelled
        if status.get(i) != "cancelled"
    ]
    for seen in journal.answers:
        found += _against_answer(seen, status, units)
    return found


def _against_answer(seen: Seen, status: dict[str, str], units: dict[str, int | None]) -> list[str]:
    found = []
    if not words(len(seen.text)).startswith(seen.text):
        found.append(f"a text with holes: {seen.job_id} {seen.text[-200:]!r}")
    if seen.status == 500:
        found.append(f"an answer 500: {seen.error}")
    if seen.is_whole:
        produced = units.get(seen.job_id)
        if status.get(seen.job_id) != "completed":
            found.append(f"I5 answered in full, but {seen.job_id} is {status.get(seen.job_id)}")
        elif produced != len(seen.text.split()):
            found.append(f"I5 {seen.job_id}: {len(seen.text.split())} seen, {produced} recorded")
    return found


def words(length: int) -> str:
    """At least so many characters of what the stub engine says."""
    text, index = [], 0
    size = 0
    while size < length:
        text.append(f"w{index} ")
        size += len(text[-1])
        index += 1
    return "".join(text)
