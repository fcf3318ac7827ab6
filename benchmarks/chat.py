"""Chat over HTTP, through the whole product, against `transformers serve` on the same weights.

    make bench ARGS="chat"           # folder, peer and results are kept in $VAR_DIR (var)
    make bench ARGS="chat --quick"

In each round every side does the same work, one after the other; the sides that wait are stopped
(SIGSTOP) where that is possible. Figures are medians over the rounds. Also: the engine alone in one
process, and the first token behind a system prompt that all share.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chat_load import ChatPlan, ChatResult, drive
from benchmarks.chat_model import Work, make_folder, prefixed, workload
from benchmarks.peers import Peer, transformers_serve
from benchmarks.report import Row, keep, median, percentile, say, table
from benchmarks.stack import Stack, stack
from tests.live import CHAT

MODEL = "bench/chat"
STREAMS = (1, 8, 32)
SLOTS = 32
OURS, INSIDE, BATCHING, PLAIN = "casola", "engine", "peer batching", "peer plain"
MAKE_SPEC = """
from inference.models import ModelSpec
ModelSpec.objects.update(enabled=False, keep_loaded=False)
ModelSpec.objects.create(
    model_id={model!r}, tasks=["openai/chat-completion"], engine="chat", source={source!r},
    device="cpu", slots={slots}, keep_loaded=True)
"""
Runs = dict[tuple[str, str], list[ChatResult]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much to do: requests by number of streams, and how many rounds."""

    requests: dict[int, int]
    rounds: int
    plain: tuple[int, ...] = (1, 8)

    @property
    def works(self) -> list[tuple[int, Work]]:
        """The work of one round, the same for every side."""
        return [(streams, workload(count, streams)) for streams, count in self.requests.items()]


QUICK = Size({1: 2, 8: 8, 32: 32}, rounds=1, plain=(1,))
FULL = Size({1: 4, 8: 24, 32: 96}, rounds=3)


class Side:
    """One server: how to ask it, and how to keep it from using CPU meanwhile."""

    def __init__(self, name: str, plan: Callable[..., ChatPlan], peer: Peer | None = None) -> None:
        self.name = name
        self.plan = plan
        self.peer = peer

    def ask(self, streams: int, work: Work) -> ChatResult:
        """Do the work, `streams` requests at a time."""
        say(f"{self.name}, {streams} streams, {len(work)} requests")
        return drive(self.plan(work=work, concurrency=streams))

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Let it run; Casola always does, its leases would run out (it idles at about 2 %)."""
        return self.peer.running() if self.peer else contextlib.nullcontext()


def ours(casola: Stack) -> Side:
    """The whole product."""

    def plan(**work: Any) -> ChatPlan:
        usage = {"stream_options": {"include_usage": True}}
        return ChatPlan(casola.port, CHAT, MODEL, key=casola.key, extra=usage, **work)

    return Side(OURS, plan)


def theirs(name: str, peer: Peer, folder: Path) -> Side:
    """`transformers serve`; it refuses stream_options and always tells the usage."""

    def plan(**work: Any) -> ChatPlan:
        return ChatPlan(peer.port, "/v1/chat/completions", str(folder), **work)

    return Side(name, plan, peer)


@contextlib.contextmanager
def sides(folder: Path, var: Path, cores: int) -> Iterator[list[Side]]:
    """Everything that is to be compared, started."""
    spec = MAKE_SPEC.format(model=MODEL, source=str(folder), slots=SLOTS)
    venv, log = var / "peers/transformers", var / "bench-chat-peer.log"
    with contextlib.ExitStack() as ending:
        found = []
        for name in (BATCHING, PLAIN):
            say(f"starting {name}")
            peer = ending.enter_context(
                transformers_serve(venv, folder, batching=name == BATCHING, log=log)
            )
            side = theirs(name, peer, folder)
            with side.running():
                side.ask(4, workload(4, 99))
            found.append(side)
        say("starting Casola")
        casola = ending.enter_context(
            stack("postgres", models={MODEL: spec}, OMP_NUM_THREADS=str(cores))
        )
        found.insert(0, ours(casola))
        found[0].ask(4, workload(4, 99))
        yield found


def inside(folder: Path, size: Size, cores: int) -> list[ChatResult]:
    """The engine alone, in a process with a runner's environment."""
    say("the engine alone")
    plan = {"folder": str(folder), "slots": SLOTS, "runs": size.works}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chat_inside"],
        input=json.dumps(plan),
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(cores)},
        text=True,
        check=True,
    )
    return [ChatResult(**result) for result in json.loads(done.stdout.splitlines()[-1])]


def measure(found: list[Side], folder: Path, size: Size, cores: int) -> Runs:
    """All rounds; results by side and case."""
    runs: Runs = {}
    for number in range(size.rounds):
        for side in found:
            with side.running():
                for streams, work in size.works:
                    if side.name != PLAIN or (streams in size.plain and not number):
                        result = side.ask(streams, work[:8] if side.name == PLAIN else work)
                        runs.setdefault((side.name, str(streams)), []).append(result)
        for (streams, _), result in zip(size.works, inside(folder, size, cores), strict=True):
            runs.setdefault((INSIDE, str(streams)), []).append(result)
        for case, shared in (("own prefix", False), ("shared prefix", True)):
            for side in found[:2]:
                with side.running():
                    work = prefixed(SLOTS + 1, 100 + number, shared=shared)
                    side.ask(1, work[:1])  # what is shared is known before the many come
                    runs.setdefault((side.name, case), []).append(side.ask(SLOTS, work[1:]))
    return runs


def figures(runs: Runs) -> list[Row]:
    """One line per side and case."""
    rows = []
    for (side, case), results in runs.items():
        rows.append(
            {
                "side": side,
                "streams": case,
                "tokens_per_s": median([one.tokens / one.seconds for one in results]),
                "first_p50_ms": median([median(one.first) for one in results]),
                "gap_p50_ms": median([median(one.gaps) for one in results]),
                "gap_p99_ms": median([percentile(one.gaps, 0.99) for one in results]),
                "requests": sum(len(one.first) for one in results),
                "failed": sum(one.failed for one in results),
                "cached_tokens": sum(one.cached_tokens for one in results),
            }
        )
    return sorted(rows, key=lambda row: (row["side"], not row["streams"].isdigit()))


def ratios(runs: Runs, size: Size) -> list[Row]:
    """What the targets are about. Speeds are compared round by round: neighbours in time."""

    def speed(side: str, case: str, number: int) -> float:
        one = runs[side, case][number]
        return one.tokens / one.seconds

    def over(one: str, other: str, case: str) -> float:
        return median(
            [speed(one, case, n) / max(speed(other, case, n), 1e-9) for n in range(size.rounds)]
        )

    def first(side: str, case: str) -> float:
        return median([median(one.first) for one in runs[side, case]])

    rows = [
        {"ratio": f"{OURS} / {BATCHING}, {streams} streams",
         "is": over(OURS, BATCHING, str(streams)), "target": target}
        for streams, target in zip(STREAMS, ("", ">= 1.25, aim 1.4", ">= 1.7, aim 2"), strict=True)
    ]  # fmt: skip
    rows += [
        {"ratio": f"{OURS} over HTTP / {INSIDE} alone, {streams} streams",
         "is": over(OURS, INSIDE, str(streams)), "target": ">= 0.9"}
        for streams in STREAMS
    ]  # fmt: skip
    shared = first(OURS, "shared prefix") / max(first(OURS, "own prefix"), 1e-9)
    rows.append({"ratio": "first token, shared / own prefix", "is": shared, "target": "<= 0.33"})
    return rows


def run(*, quick: bool) -> int:
    """Measure; returns how many requests failed or were short."""
    var = Path(os.environ.get("VAR_DIR") or "var").resolve()
    size = QUICK if quick else FULL
    cores = len(os.sched_getaffinity(0))
    folder = make_folder(var / "chat-100m")
    with sides(folder, var, cores) as found:
        runs = measure(found, folder, size, cores)
    rows = figures(runs)
    table(f"chat, 100M parameters, bfloat16, medians of {size.rounds} round(s)", rows)
    compared = ratios(runs, size)
    table("ratios", compared)
    keep("chat", {"rows": rows, "ratios": compared})
    results = [result for several in runs.values() for result in several]
    for error in [error for result in results for error in result.errors][:5]:
        print(f"FAILED: {error}")
    return sum(result.failed for result in results)
