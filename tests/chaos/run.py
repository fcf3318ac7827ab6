"""Load and faults at random, then quiet, then the checker: `python -m tests.chaos.run --help`.

The short form is a test (test_mixed.py); `make soak` runs the long one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests import servers
from tests.chaos.checker import violations
from tests.chaos.world import ECHO, World

SUBMITTERS = 8
WEIGHTS = {"kill runner": 5, "stop runner": 3, "kill sentinel": 1, "kill node": 1, "kill web": 2}
SERVER_WEIGHTS = {"restart PostgreSQL": 1, "restart Redis": 1, "flush Redis": 1}
LEASE_SECONDS = 3


@dataclass
class Plan:
    """What one run does; everything random comes from the seed."""

    jobs: int = 1000
    streams: int = 100
    faults: int = 10
    seed: int = 0
    seconds: float = 20.0  # the load is spread over so long
    poison: int = 1
    with_servers: bool = False
    applied: Counter = field(default_factory=Counter)


def chaos(world: World, plan: Plan) -> list[str]:
    """Run it; returns the broken promises."""
    chance = random.Random(plan.seed)
    keys = world.organizations(3)
    began = time.monotonic()
    stop = threading.Event()
    keeper = threading.Thread(target=_supervise, args=(world, stop), daemon=True)
    keeper.start()
    with ThreadPoolExecutor(1) as loading:
        load = loading.submit(_load, world, plan, keys, random.Random(chance.random()), began)
        # Here, because a server started by a thread would end with that thread.
        _nemesis(world, plan, chance.random())
        load.result()
    loaded = time.monotonic()
    world.quiet(90)
    stop.set()
    keeper.join()
    quiet = time.monotonic()
    found = violations(world.query, world.journal)
    if left := world.release_abandoned():
        found.append(f"B2 {left} reservations are left when nothing is under way")
    found += [one for one in violations(world.query) if one not in found]
    _report(world, plan, loaded - began, quiet - loaded)
    return found


def _load(world: World, plan: Plan, keys: list[str], chance: random.Random, began: float) -> None:
    poisonous = set(chance.sample(range(plan.jobs), plan.poison))
    works: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []
    for number in range(plan.jobs):
        task: dict[str, Any] = {"duration_ms": chance.randint(2, 25), "units": 1}
        if number in poisonous:
            task = {"crash": True}
        elif chance.random() < 0.01:
            task["duration_ms"] = int(LEASE_SECONDS * 1000 * 0.9)
        extra = {"twice": chance.random() < 0.1, "cancel": chance.random() < 0.02}
        works.append((chance.uniform(0, plan.seconds), _submit, (chance.choice(keys), task, extra)))
    for number in range(plan.streams):
        leave = chance.randint(1, 30) if number % 2 else None
        works.append((chance.uniform(0, plan.seconds), _stream, (chance.choice(keys), leave)))
    works.sort(key=lambda work: work[0])
    with (
        ThreadPoolExecutor(SUBMITTERS) as submitters,
        ThreadPoolExecutor(64) as readers,
        httpx.Client(base_url=world.url, timeout=30) as client,
    ):
        waiting = []
        for at, work, arguments in works:
            time.sleep(max(0.0, began + at - time.monotonic()))
            pool = submitters if work is _submit else readers
            waiting.append(pool.submit(work, world, client, *arguments))
        for future in waiting:
            future.result()


def _submit(
    world: World, client: httpx.Client, key: str, task: dict[str, Any], extra: dict[str, bool]
) -> None:
    idempotency = uuid.uuid4().hex
    headers = {**world.headers(key), "Idempotency-Key": idempotency}
    body = {"model_id": ECHO, "task": ECHO, "input": task}
    job_id = _post(world, client, "/api/jobs", headers, body)
    if job_id is None:
        return
    world.journal.accept(job_id, idempotency)
    if extra["twice"] and (again := _post(world, client, "/api/jobs", headers, body)):
        world.journal.accept(again, idempotency)
    if extra["cancel"]:
        with contextlib.suppress(httpx.HTTPError):
            answer = client.post(f"/api/jobs/{job_id}/cancel", headers=world.headers(key))
            world.journal.status(answer.status_code)
            if answer.status_code == 200:
                world.journal.cancel(job_id)


def _post(
    world: World, client: httpx.Client, path: str, headers: dict[str, str], body: dict[str, Any]
) -> str | None:
    for _ in range(60):
        try:
            answer = client.post(path, headers=headers, json=body)
        except httpx.HTTPError:
            time.sleep(0.2)
            continue
        world.journal.status(answer.status_code)
        if answer.status_code in (200, 201):
            return answer.json()["id"]
        if answer.status_code < 500 and answer.status_code not in (409, 429):
            raise AssertionError(answer.text)
        time.sleep(0.3)
    return None


def _stream(world: World, _client: httpx.Client, key: str, leave: int | None) -> None:
    with world.open_stream(40, key) as stream:
        stream.read(words=leave)
        if leave is not None:
            world.journal.answer(stream.seen)


def _supervise(world: World, stop: threading.Event) -> None:
    """Starts what has ended again, as the shipped supervisor does."""
    while not stop.wait(0.1):
        if world.processes["gpu"].poll() is not None:
            world.start_process("gpu", "qnode", f"gpu-{world.node}")


def _nemesis(world: World, plan: Plan, seed: float) -> None:
    chance = random.Random(seed)
    weights = WEIGHTS | (SERVER_WEIGHTS if plan.with_servers else {})
    kinds = chance.choices(list(weights), list(weights.values()), k=plan.faults)
    gap = plan.seconds / (plan.faults + 1)
    for kind in kinds:
        time.sleep(gap * chance.uniform(0.6, 1.4))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(psutil.Error, OSError, IndexError, TimeoutError):
                _strike(world, kind)
                plan.applied[kind] += 1
                break
            time.sleep(0.2)


def _strike(world: World, kind: str) -> None:
    match kind:
        case "kill runner":
            world.kill_runner()
        case "stop runner":
            _, pid = world.runner()
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(LEASE_SECONDS * 2, _go_on, [pid]).start()
        case "kill sentinel":
            world.sentinel().kill()
        case "kill node":
            world.processes["gpu"].kill()
        case "kill web":
            world.web_workers()[0].kill()
        case "restart PostgreSQL":
            world.postgres.restart_immediate()
        case "restart Redis":
            world.redis.restart()
        case "flush Redis":
            import redis

            redis.Redis.from_url(world.redis_url).flushall()


def _go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _report(world: World, plan: Plan, load: float, settle: float) -> None:
    again = world.query("SELECT coalesce(sum(attempts - 1), 0) FROM jobs_job WHERE attempts > 1")
    ends = world.query("SELECT lane, status, count(*) FROM jobs_job GROUP BY 1, 2 ORDER BY 1, 2")
    answers = Counter(
        "whole" if a.is_whole else "error" if a.error else a.failure.split("(")[0] or "left"
        for a in world.journal.answers
    )
    print(f"seed {plan.seed}: load {load:.0f} s, quiet after {settle:.1f} s")
    print(f"faults: {dict(plan.applied)}; {again[0][0]} redelivered")
    print(f"ends: {[tuple(row) for row in ends]}")
    print(f"HTTP: {world.journal.statuses}; streams: {dict(answers)}")


def main(arguments: list[str]) -> int:
    """The long form on servers of its own; returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=0, help="default: a fiftieth of the jobs")
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--poison", type=int, default=5)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long the load lasts")
    options = parser.parse_args(arguments)
    plan = Plan(
        jobs=options.jobs,
        streams=options.streams or options.jobs // 50,
        faults=options.faults,
        poison=options.poison,
        seed=random.SystemRandom().randrange(10**6) if options.seed is None else options.seed,
        seconds=options.seconds or options.jobs / 40,
        with_servers=True,
    )
    print(plan)
    with (
        tempfile.TemporaryDirectory(prefix="casola-chaos-") as folder,
        servers.postgres(durable=True) as database,
        servers.redis() as broker,
    ):
        world = World(Path(folder), broker.url, database.url, workers=2, slots=16)
        world.postgres, world.redis = database, broker
        try:
            found = chaos(world.start(), plan)
        finally:
            world.finish()
    print("\n".join(found) or "every promise holds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
