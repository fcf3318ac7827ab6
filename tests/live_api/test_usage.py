"""What was asked for over HTTP, what the ledger holds, and what the usage route says, are one."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

from tests.live_api.envelope import assert_envelope, job_body

SUM = """
import json
from django.db.models import Sum
from jobs.models import Job
from usage.models import UNITS, UsageRecord
own = dict(organization__public_id={organization!r})
records, jobs = UsageRecord.objects.filter(**own), Job.objects.filter(**own)
print(json.dumps({{
    "ledger": [records.count(), *[int(records.aggregate(n=Sum(unit))["n"] or 0) for unit in UNITS]],
    "jobs": [jobs.count(), *[sum(job.units.get(unit, 0) for job in jobs) for unit in UNITS]],
    "amount": str(sum(record.amount for record in records)), "units": UNITS}}))
"""


def test_all_sums_are_one(site):
    owner = site.live.organization()
    path = f"/api/organizations/{owner['organization_id']}/usage"
    key = owner["secret"]

    def shown(query: str) -> dict:
        answer = site.live.get(f"{path}?{query}", key)
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]

    for count in (1, 2):  # it grows with each call, at once
        assert site.live.chat(key=key).status_code == 200
        for name in ("1h", "24h", "90d"):
            assert shown(f"range={name}")["totals"]["requests"] == count
    ended = []
    for wish in ({}, {"error": "worker_error"}, {"error": "invalid_value"}, {"crash": True}):
        made = site.live.post("/api/jobs", job_body(input=wish), key)
        ended.append(site.live.wait_job(made.json()["id"], key=key, seconds=120)["status"])
    slow = site.live.post("/api/jobs", job_body(input={"duration_ms": 60_000}), key).json()["id"]
    ended.append(site.live.post(f"/api/jobs/{slow}/cancel", key=key).json()["status"])
    site.live.wait_ready()

    found = json.loads(
        site.live.python(SUM.format(organization=owner["organization_id"])).splitlines()[-1]
    )
    assert ended == ["completed", "failed", "failed", "failed", "cancelled"]
    assert found["ledger"] == found["jobs"]
    assert found["ledger"][0] == 7
    names = ["requests", *found["units"]]
    usage = shown("range=1h&group_by=model,task,token,member,status")
    csv_query = "range=24h&group_by=status&format=csv"
    answer = site.live.get(f"{path}?{csv_query}", key)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "x-ratelimit-limit-requests" not in answer.headers  # the plan is unlimited
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    for part in (usage["data"], rows):
        assert [sum(int(row[name]) for row in part) for name in names] == found["ledger"]
        assert sum(Decimal(row["amount"]) for row in part) == Decimal(found["amount"])
    totals = usage["totals"]
    assert [totals[name] for name in names] == found["ledger"]
    assert [totals[status] for status in ("completed", "failed", "cancelled")] == [3, 3, 1]
    assert {row["member"] for row in usage["data"]} != {None}


def test_csv_of_nothing_and_a_wrong_parameter(site):
    path = f"/api/organizations/{site.spare['id']}/usage"
    key = site.spare["one"]
    answer = site.live.get(f"{path}?format=csv&range=1h", key)
    assert answer.status_code == 200
    assert answer.text.startswith("start,start_at,requests,")
    assert answer.headers["x-ratelimit-limit-requests"] == "60"
    wrong = site.live.get(f"{path}?range=1y", key)
    assert assert_envelope(wrong, 400, code="invalid_value")["param"] == "range"
