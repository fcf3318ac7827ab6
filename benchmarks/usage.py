"""The usage answer over a million records of one organization: every range by every group.

A twentieth of the records lies in the last 50 minutes, the rest is spread over 90 days. Measured is
the whole view (token, limiter, SQL, JSON), in one process; once more without the totals of minutes,
so that all that no closed hour holds is read from the ledger.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import keep, say, table
from tests.live import ROOT, Live
from tests.servers import Folder, PostgresServer, RedisServer

TARGET_MS = 200


def run(*, quick: bool) -> int:
    """Measure; returns how many answers were wrong (a slow one is not)."""
    records, calls = (100_000, 5) if quick else (1_000_000, 20)
    folder, redis, postgres = Folder(), RedisServer(), PostgresServer()
    try:
        redis.start()
        postgres.start()
        casola = Live(
            var_dir=Path(folder.path) / "var",
            redis_url=redis.url,
            database_url=postgres.url,
            environment={"LOG_LEVEL": "ERROR"},
            port=8000,  # nobody listens
        )
        casola.var_dir.mkdir()
        casola.manage("migrate", "-v0")
        say(f"{records} records, {calls} calls of each kind")
        code = f"from benchmarks import usage_inside; usage_inside.main({records}, {calls})"
        done = subprocess.run(
            [sys.executable, "manage.py", "shell", "-v0", "-c", code],
            cwd=ROOT,
            env=casola.env(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        postgres.close()
        redis.close()
        folder.remove()
    found = json.loads(done.stdout.strip().splitlines()[-1])
    table("making the totals", [found["making"]])
    table(f"GET usage, {records} records; target p95 < {TARGET_MS} ms", found["reading"])
    table("the same without totals of minutes", found["without"])
    table("indexes", found["plans"])
    keep("usage", found)
    return found["wrong"]
