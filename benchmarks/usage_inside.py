"""The part of the usage benchmark that runs inside Django."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Organization, User
from accounts.services import create_organization
from benchmarks.report import Row, median, percentile, say
from tokens.services import issue_token
from usage.models import TotalsMark, UsageRecord, UsageTotal
from usage.periods import RANGES, window_of_range
from usage.selectors import GROUPS, read_usage
from usage.totals import rebuild, roll_up

MODELS, TOKENS, DAYS = 5, 8, 90
RECENT = 20  # one in so many lies in the last 50 minutes
INDEX = re.compile(r"Index (?:Only )?Scan (?:Backward )?using (\w+)|Bitmap Index Scan on (\w+)")

# In order of time, as a ledger lies on disk. Each token has its member, each model its task; 90 % complete, 7 % fail, 3 % are cancelled.
FILL = """
INSERT INTO usage_usagerecord (public_id, job_id, organization_id, token_id, user_id, model_id,
    task, status, prompt_tokens, completion_tokens, cached_tokens, characters, audio_ms, images,
    pixels, video_ms, compute_ms, prices, amount, currency, created_at)
SELECT 'use_' || n, 'job-' || n, %(organization)s,
    (%(tokens)s::bigint[])[1 + n %% 8], (%(users)s::bigint[])[1 + n %% 8],
    'model-' || n %% 5, 'task-' || n %% 5,
    CASE WHEN n %% 100 < 90 THEN 'completed' WHEN n %% 100 < 97 THEN 'failed' ELSE 'cancelled' END,
    n %% 1000, n %% 300, 0, 0, 0, 0, 0, 0, n %% 5000, '{}', (n %% 300) * 0.000001, 'USD', at
FROM (
    SELECT n, CASE WHEN random() * %(recent)s < 1 THEN %(now)s - random() * interval '50 minutes'
                   ELSE %(now)s - random() * interval '1 day' * %(days)s END AS at
    FROM generate_series(1, %(records)s) AS n
    ORDER BY at
) AS made
"""


def main(records: int, calls: int) -> None:
    """Print the figures as JSON."""
    now = timezone.now()
    organization, owner = create_organization(
        name="Bench", plan_code="unlimited", owner_email="bench@example.com"
    )
    users = [User.objects.create_user(f"member-{n}@example.com").pk for n in range(TOKENS)]
    issued = [
        issue_token(
            organization=organization,
            created_by=owner,
            name=f"Token {n}",
            scopes=["admin:read"],
            now=now,
        )
        for n in range(TOKENS)
    ]
    values: dict[str, Any] = {
        "organization": organization.pk,
        "tokens": [token.pk for token, _ in issued],
        "users": users,
        "recent": RECENT,
        "now": now,
        "days": DAYS,
        "records": records,
    }
    making: Row = {}
    with connection.cursor() as cursor:
        _timed(making, "fill_s", lambda: cursor.execute(FILL, values))
        cursor.execute("VACUUM ANALYZE usage_usagerecord")
    _timed(making, "roll_up_s", lambda: roll_up(now=timezone.now()))
    _timed(making, "next_roll_up_ms", lambda: roll_up(now=timezone.now()), scale=1000)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE usage_usagetotal")
    for granularity in ("minute", "hour", "day"):
        rows = UsageTotal.objects.filter(granularity=granularity).count()
        making[f"{granularity}_totals"] = rows
    path = f"/api/organizations/{organization.public_id}/usage"
    secret = issued[0][1]
    groups = ("", *GROUPS, "model,status")
    reading = [
        _measure(path, secret, calls, range=name, group_by=group)
        for name in RANGES
        for group in groups
    ]
    plans = [_plan(organization, name, now) for name in RANGES]
    minutes_until = TotalsMark.objects.values_list("minutes_until", flat=True).get()
    TotalsMark.objects.update(minutes_until=None)
    without = [
        _measure(path, secret, calls, range=name, group_by=group)
        for name in ("1h", "24h")
        for group in groups
    ]
    TotalsMark.objects.update(minutes_until=minutes_until)
    csv = {"range": "90d", "group_by": ",".join(GROUPS), "format": "csv"}
    reading.append(_measure(path, secret, max(3, calls // 4), **csv))
    say("rebuild")
    repaired: list[int] = []
    _timed(making, "rebuild_s", lambda: repaired.extend(n for _, n in rebuild(now=now)))
    wrong = sum(repaired) + sum(row.pop("wrong") for row in (*reading, *without))
    wrong += UsageRecord.objects.count() != records
    found = {"making": making, "reading": reading, "without": without, "plans": plans}
    print(json.dumps({**found, "wrong": wrong}))


def _timed(row: Row, name: str, work: Any, scale: float = 1) -> None:
    began = time.perf_counter()
    work()
    row[name] = (time.perf_counter() - began) * scale


def _plan(organization: Organization, name: str, now: datetime) -> Row:
    """Which indexes serve a range, in the order of the parts it is read in."""
    with CaptureQueriesContext(connection) as captured:
        read_usage(organization=organization, window=window_of_range(name, now))
    indexes = []
    with connection.cursor() as cursor:
        for query in captured.captured_queries:
            if "SUM(" in query["sql"]:
                cursor.execute(f"EXPLAIN {query['sql']}")
                text = " ".join(row[0] for row in cursor.fetchall())
                indexes.append(
                    ", ".join(filter(None, (word for pair in INDEX.findall(text) for word in pair)))
                    or "a scan of the table"
                )
    return {"range": name, "indexes": " + ".join(indexes)}


def _measure(path: str, secret: str, calls: int, **query: str) -> Row:
    client, headers = Client(SERVER_NAME="127.0.0.1"), {"Authorization": f"Bearer {secret}"}
    times, wrong, size = [], 0, 0
    for _ in range(calls + 1):
        began = time.perf_counter()
        answer = client.get(path, query, headers=headers)
        size = len(b"".join(answer))
        times.append((time.perf_counter() - began) * 1000)
        wrong += answer.status_code != 200
    found: Row = {
        "range": query["range"],
        "group_by": query["group_by"] or "-",
        "kb": size / 1000,
        "p50_ms": median(times[1:]),
        "p95_ms": percentile(times[1:], 0.95),
        "wrong": wrong,
    }
    say(
        f"{found['range']} by {found['group_by']}: {found['p50_ms']:.0f} / {found['p95_ms']:.0f} ms"
    )
    return found
