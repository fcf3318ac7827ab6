"""Persisted Jobs: a Runner that claims and batches, against one django-q task per request.

Both write the same Job rows and end them through `finish_jobs`, on the same PostgreSQL, in one run.
The q-tasks run on a plain `qcluster` with the database as broker. Also: what it costs an answer to
be held until its end is committed.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.report import Row, keep, say, table
from benchmarks.stack import Stack, stack
from tests.live import wait_until

WORKERS = 4


def drive(casola: Stack, *arguments: Any) -> Row:
    """Run `benchmarks.jobs` inside a configured Django; returns its figures."""
    code = f"from benchmarks import jobs; jobs.main({', '.join(map(repr, arguments))})"
    return json.loads(casola.python(code).splitlines()[-1])


def run(*, quick: bool) -> int:
    """Measure; returns how many Jobs did not complete exactly once."""
    latencies, burst, slow = (20, 200, 40) if quick else (100, 2000, 200)
    rows = []
    with stack("postgres", QTASK_WORKERS=str(WORKERS)) as casola:
        kept = dict(casola.environment)
        casola.environment |= {"DJANGO_SETTINGS_MODULE": "benchmarks.qtask_settings"}
        casola.start_process("qtasks", "qcluster")
        for mode in ("runner", "qtask"):
            wait_until(lambda mode=mode: drive(casola, mode, 1, 1, 0), what=mode)
            say(f"{mode}: {latencies} Jobs one by one, {burst} at once")
            rows.append(drive(casola, mode, latencies, burst, 0))
            say(f"{mode}: {slow} Jobs of 20 ms")
            rows.append(drive(casola, mode, 5, slow, 20))
        casola.environment = kept
        say("commit")
        holds = json.loads(
            casola.python("from benchmarks import jobs; jobs.hold()").splitlines()[-1]
        )
    table(f"persisted Jobs, Runner against one q-task per request ({WORKERS} workers)", rows)
    ratios = [
        {
            "work_ms": runner["work_ms"],
            "latency_q_task_over_runner": qtask["p50_ms"] / runner["p50_ms"],
            "jobs_per_s_runner_over_q_task": runner["jobs_per_s"] / qtask["jobs_per_s"],
        }
        for runner, qtask in zip(rows[:2], rows[2:], strict=True)
    ]
    table("ratios", ratios)
    table("an answer held for the group commit", holds)
    keep("queue", {"jobs": rows, "ratios": ratios, "holds": holds})
    return sum(row["wrong"] for row in rows)
