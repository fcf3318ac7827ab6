"""The rate table over real minutes, against two web processes: `python -m tests.limits.run --help`.

The short form is a test (tests/live_api/test_rate_table.py); `make soak` runs this one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests import servers
from tests.limits.measure import make_tenants, measure, table
from tests.live import Live, wait_until
from tests.servers import free_port


def main(arguments: list[str]) -> int:
    """On servers of its own; returns 1 when a limit was not kept, or not reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.limits.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=250.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--plans", default="free,pro,enterprise")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    with (
        tempfile.TemporaryDirectory(prefix="casola-limits-") as folder,
        servers.postgres() as database,
        servers.redis() as broker,
    ):
        live = Live(Path(folder), broker.url, database.url)
        try:
            live.start()
            second = free_port()
            live.start_process("web2", "web", "--port", str(second))
            urls = (live.url, f"http://127.0.0.1:{second}")
            wait_until(lambda: live.get("/livez").status_code == 200)
            tenants = make_tenants(live, *options.plans.split(","))
            print(f"{options.seconds:.0f} s, seed {seed}", flush=True)
            journals = measure(
                tenants, urls=urls, redis_url=broker.url, seconds=options.seconds, seed=seed
            )
        finally:
            live.stop()
    print(table(journals))
    found = [text for journal in journals for text in journal.violations()]
    print("\n".join(found) or "every limit was kept and reached")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
