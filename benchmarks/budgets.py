"""What budgets cost: the ends of Jobs with and without, and reserving, alone and in a crowd."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import keep, table
from tests.live import ROOT, Live
from tests.servers import Folder, PostgresServer, RedisServer


def run(*, quick: bool) -> int:
    """Measure; returns how many counters were wrong afterwards."""
    calls = 50 if quick else 400
    folder, redis, postgres = Folder(), RedisServer(), PostgresServer(durable=True)
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
        code = f"from benchmarks import budgets_inside; budgets_inside.main({calls})"
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
    table("one transaction that ends so many interactive Jobs", found["ends"])
    table("reserving for one request, then giving it back", found["reserving"])
    keep("budgets", found)
    return found["wrong"]
