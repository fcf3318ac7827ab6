"""Sum of the ledger = sum over Jobs = the usage answer = its CSV, after a run with every end."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.chaos.world import ECHO, World
from tests.live import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OTHER = "test/other"
UNITS = ("prompt_tokens", "completion_tokens", "compute_ms")
GROUPS = ("", "model", "task", "token", "member", "status", "model,task,token,member,status")
RANGES = ("1h", "24h", "90d")
STATUSES = ("completed", "failed", "cancelled")
NAMES = ("requests", *STATUSES, *UNITS, "amount")
SET_UP = f"""
import json
import os
import signal
from django.utils import timezone
from accounts.services import create_organization
from inference.catalog import DEMO_ECHO
from inference.models import ModelSpec
from tokens.services import issue_token
from usage.models import Price

ModelSpec.objects.create(**{{**DEMO_ECHO, "model_id": "{OTHER}", "aliases": [],
    "options": {{"token_ms": 20}}}})
Price.objects.create(model_id="{OTHER}", unit="completion_tokens", amount="0.000000007", per=3)
made = {{}}
for name in ("one", "two"):
    row, owner = create_organization(
        name=name, plan_code="unlimited", owner_email=name + "@example.com")
    tokens = [issue_token(organization=row, created_by=person, name="t", scopes=["admin:write"],
        now=timezone.now())[1] for person in (owner, None)]
    made[name] = [row.public_id, *tokens]
print(json.dumps(made))
"""
COLUMNS = "count(*), " + ", ".join(
    f"count(*) FILTER (WHERE status = '{status}')" for status in STATUSES
)
LEDGER = (
    f"SELECT {COLUMNS}, {', '.join(f'sum({unit})' for unit in UNITS)}, sum(amount)"
    " FROM usage_usagerecord WHERE organization_id ="
    " (SELECT id FROM accounts_organization WHERE public_id = %s)"
)
JOBS = (
    f"SELECT {COLUMNS}, {', '.join(f'''sum((units ->> '{u}')::bigint)''' for u in UNITS)}"
    " FROM jobs_job WHERE organization_id ="
    " (SELECT id FROM accounts_organization WHERE public_id = %s)"
)
ROLL_UP = """
from datetime import timedelta
from django.utils import timezone
from usage.models import TotalsMark, UsageTotal
from usage.totals import rebuild, roll_up
now = timezone.now() + timedelta({later})
if {afresh}:
    UsageTotal.objects.all().delete()
    TotalsMark.objects.all().delete()
roll_up(now=now)
print(UsageTotal.objects.count(), sum(wrong for _, wrong in rebuild(now=now)))
"""


def run_every_end(world: World, keys: list[str], model: str) -> list[Any]:
    """One of each, in both lanes and with both tokens; returns what is still to be waited for."""
    member, robot = keys
    waiting: list[Any] = []

    def job(key: str, **task: Any) -> str:
        made = world.post("/api/jobs", {"model_id": model, "task": ECHO, "input": task}, key)
        assert made.status_code == 201, made.text
        world.journal.accept(made.json()["id"])
        return made.json()["id"]

    for key in (member, robot, robot):
        waiting.append(world.in_background(world.ask, "!tokens 7", key=key, model=model))
        waiting.append(world.in_background(world.ask, "!error 3", key=key, model=model))
        waiting.append(world.in_background(world.stream, 40, key))
        job(key, units=3)
        job(key, error="worker_error", units=2)
        job(key, error="invalid_value")
    held = job(member, duration_ms=60_000)
    wait_until(lambda: world.row(held)["status"] == "processing", seconds=20, what="a held job")
    for job_id in (held, job(robot, duration_ms=60_000)):
        assert world.post(f"/api/jobs/{job_id}/cancel", key=member).status_code == 200
        world.journal.cancel(job_id)
    for key in keys:
        with world.open_stream(1000, key) as left:
            left.read(words=5)
    return waiting


@pytest.fixture
def made(world: World) -> Iterator[dict[str, list[str]]]:
    """Two organizations with two tokens each, and a second model."""
    yield json.loads(world.python(SET_UP).splitlines()[-1])
    with world.database() as connection:
        connection.execute(
            "UPDATE inference_modelspec SET enabled = false WHERE model_id = %s", [OTHER]
        )
        connection.execute("DELETE FROM usage_usagetotal")
        connection.execute("DELETE FROM usage_totalsmark")


def test_all_sums_are_one_whatever_happened(world: World, made: dict[str, list[str]]):
    world.wait_ready(OTHER)
    waiting = []
    for model in (ECHO, OTHER):
        for _, *keys in made.values():
            waiting += run_every_end(world, keys, model)
    poison = world.submit(key=made["one"][1], crash=True)
    # Killed while it streams and holds a job: the stream fails, the job runs once more.
    with world.open_stream(500, made["two"][1]) as stream:
        retried = world.submit(key=made["two"][2], duration_ms=1500, units=4)
        stream.read(words=5)
        wait_until(lambda: world.row(retried)["status"] != "pending", seconds=20, what="its start")
        for pk, pid in world.query("SELECT id, pid FROM jobs_runner WHERE state = 'live'"):
            print(f"killing runner {pk}")
            os.kill(pid, signal.SIGKILL)
        seen = stream.read()
    for future in waiting:
        future.result(60)
    assert seen.error["code"] == "worker_error"
    assert world.wait_row(seen.job_id)["amount"] == 0
    assert world.wait_row(poison, 60)["error"]["code"] == "worker_crashed"
    row = world.wait_row(retried, 30)
    assert (row["status"], row["crashes"] >= 1, row["completion_tokens"]) == ("completed", True, 4)
    world.quiet(60)

    before = {name: check(world, *made[name][:2]) for name in made}
    for sums in before.values():
        assert min(sums[status] for status in STATUSES) >= 8, before
    for later, afresh in (("minutes=10", False), ("days=2", True)):
        rows, repaired = world.python(ROLL_UP.format(later=later, afresh=afresh)).split()[-2:]
        assert int(rows) > 0
        assert int(repaired) == 0
        assert world.manage("rebuild_usage").endswith(", 0 totals repaired\n")
        assert {name: check(world, *made[name][:2]) for name in made} == before


def check(world: World, organization: str, key: str) -> dict[str, Any]:
    """Every sum of one organization is the same, whoever adds it up; returns it."""
    ledger = world.query(LEDGER, organization)[0]
    assert world.query(JOBS, organization)[0] == ledger[:-1]
    wanted = dict(zip(NAMES, (*map(int, ledger[:-1]), ledger[-1]), strict=True))
    with httpx.Client(
        base_url=f"{world.url}/api/organizations/{organization}",
        headers=world.headers(key),
        timeout=60,
    ) as client:
        for name, group in itertools.product(RANGES, GROUPS):
            query = f"/usage?range={name}&group_by={group}"
            usage = client.get(query).json()["usage"]
            rows = list(csv.DictReader(io.StringIO(client.get(query + "&format=csv").text)))
            for part in ([usage["totals"]], usage["data"], rows):
                assert added(part) == wanted, (name, group)
    by_status = Counter({status: wanted[status] for status in STATUSES})
    assert by_status.total() == wanted["requests"]
    return wanted


def added(rows: list[dict[str, Any]]) -> dict[str, Any]:
    sums: dict[str, Any] = {name: sum(int(row[name]) for row in rows) for name in NAMES[:-1]}
    return {**sums, "amount": sum((Decimal(row["amount"]) for row in rows), Decimal(0))}
