"""The gateway over a stub engine of fixed delay: requests/s, added latency, CPU per request.

Everything a request costs in production is on: its key, the limiter, Job and UsageRecord rows, the
group commit. `added` is what the client waited beyond the engine's delay.
"""

from __future__ import annotations

import httpx

from benchmarks.load import Client, Plan, Result
from benchmarks.report import Row, keep, median, percentile, say, table
from benchmarks.stack import Parts, Stack, chat_body, stack, tree_seconds
from tests.live import CHAT, wait_until
from tests.servers import free_port

DELAY_MS = 200
CONNECTIONS = (1, 64, 512)


def figures(case: str, connections: int, delay: int, result: Result, cpu: Parts) -> Row:
    """One line of the table."""
    count = max(1, result.answered)
    added = [latency - delay for latency in result.latencies]
    parts = {part: seconds * 1000 / count for part, seconds in cpu.items()}
    return {
        "case": case,
        "connections": connections,
        "requests": result.answered,
        "failed": result.failed,
        "per_s": result.answered / result.seconds,
        "added_p50_ms": median(added),
        "added_p99_ms": percentile(added, 0.99),
        "cpu_ms": parts.get("web", 0) + parts.get("runner", 0),
        **{f"{part}_ms": value for part, value in parts.items()},
        "client_ms": result.client_cpu_s * 1000 / count,
    }


def measure(casola: Stack, case: str, connections: int, delay: int, seconds: float) -> Row:
    """One closed loop against the chat endpoint."""
    say(f"{case}, {connections} connections, engine delay {delay} ms")
    text = f"Tell me about queues. !slow {delay}" if delay else "Tell me about queues."
    plan = casola.plan(
        body=chat_body(text), connections=connections, seconds=seconds, spread=delay / 1000
    )
    result, cpu = casola.measure(plan)
    return figures(case, connections, delay, result, cpu)


def measure_hello(casola: Stack, connections: int, seconds: float) -> Row:
    """The yardstick on a guarded server of its own."""
    say(f"yardstick, {connections} connections")
    plan = Plan(
        port=int(casola.environment["HELLO_PORT"]),
        key=casola.key,
        path=CHAT,
        body=chat_body("Tell me about queues."),
        connections=connections,
        seconds=seconds,
    )
    pid = casola.processes["hello"].pid
    client = Client(plan)
    before = tree_seconds(pid)
    result = client.go()
    casola.failed += result.failed
    return figures("hello", connections, 0, result, {"web": tree_seconds(pid) - before})


def start_hello(casola: Stack) -> None:
    """Start the yardstick beside the gateway."""
    port = str(free_port())
    kept = dict(casola.environment)
    casola.environment |= {"DJANGO_SETTINGS_MODULE": "benchmarks.hello_settings", "PORT": port}
    casola.start_process("hello", "web")
    casola.environment = {**kept, "HELLO_PORT": port}
    wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/").is_success, what="the yardstick")


def run_on(database: str, *, quick: bool) -> tuple[list[Row], int]:
    """All cases on one database; returns the rows and how much went wrong."""
    seconds = 3.0 if quick else 10.0
    rows: list[Row] = []
    with stack(database) as casola:
        start_hello(casola)
        measure(casola, "warm-up", 16, 0, 2.0)
        rows += [
            measure(casola, f"{database} 200 ms", connections, DELAY_MS, seconds)
            for connections in CONNECTIONS
        ]
        rows += [
            measure(casola, f"{database} 0 ms", connections, 0, seconds)
            for connections in CONNECTIONS[:2]
        ]
        rows += [measure_hello(casola, count, seconds / 2) for count in CONNECTIONS[:2]]
        wrong = casola.failed + abs(casola.unrecorded())
        print(f"{database}: {casola.answered} answers, {casola.unrecorded()} without usage record")
    hello = next(row for row in rows if row["case"] == "hello" and row["connections"] == 64)
    for row in rows:
        row["x_hello"] = row["cpu_ms"] / hello["cpu_ms"] if hello["cpu_ms"] else 0.0
    return rows, wrong


def run(*, quick: bool) -> int:
    """Measure on both databases; returns how many requests failed or were not recorded."""
    rows, wrong = [], 0
    for database in ("postgres", "sqlite"):
        found, bad = run_on(database, quick=quick)
        rows += found
        wrong += bad
    table("gateway", rows)
    keep("gateway", rows)
    return wrong
