"""Embeddings over HTTP, through the whole product, against infinity-emb on the same weights.

    make bench ARGS="embeddings"           # folder, peer and results are kept in $VAR_DIR (var)
    make bench ARGS="embeddings --quick"

In each round every side does the same work, one after the other; the peers that wait are stopped
(SIGSTOP). Speeds are compared round by round with the better of the peer's two dtypes. The vectors
of all sides are compared as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.embeddings_load import EmbeddingsPlan, EmbeddingsResult, drive
from benchmarks.embeddings_model import make_folder, workload
from benchmarks.peers import Peer, infinity
from benchmarks.report import Row, keep, median, percentile, say, table
from benchmarks.stack import Stack, stack

MODEL = "bench/embeddings"
PATH = "/openai/v1/embeddings"
OURS = "casola"
DTYPES = ("float32", "bfloat16")
CASES = {"single": 32, "bulk": 4, "long": 8}  # requests at a time
TARGETS = {"single": ">= 1.4, aim 1.7", "bulk": ">= 1.4, aim 1.5", "long": ">= 1.4, aim 1.9"}
MAKE_SPEC = """
from inference.models import ModelSpec
ModelSpec.objects.update(enabled=False, keep_loaded=False)
ModelSpec.objects.create(
    model_id={model!r}, tasks=["openai/embeddings"], engine="embeddings", source={source!r},
    device="cpu", slots=512, keep_loaded=True)
"""
Runs = dict[tuple[str, str], list[EmbeddingsResult]]


@dataclass(frozen=True, slots=True)
class Size:
    """Requests by case, and how many rounds."""

    requests: dict[str, int]
    rounds: int


QUICK = Size({"single": 64, "bulk": 2, "long": 8}, rounds=1)
FULL = Size({"single": 640, "bulk": 8, "long": 32}, rounds=3)


class Side:
    """One server and how to ask it."""

    def __init__(self, name: str, plan: Callable[..., EmbeddingsPlan], peer: Peer | None) -> None:
        self.name = name
        self.plan = plan
        self.peer = peer

    def ask(self, case: str, work: list[list[str]], **options: Any) -> EmbeddingsResult:
        """Do the work."""
        say(f"{self.name}, {case}, {len(work)} requests")
        return drive(self.plan(work=work, concurrency=CASES[case], **options))

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Let it run; Casola always does, its leases would run out."""
        return self.peer.running() if self.peer else contextlib.nullcontext()


def ours(casola: Stack) -> Side:
    """The whole product."""
    return Side(
        OURS, lambda **work: EmbeddingsPlan(casola.port, PATH, MODEL, key=casola.key, **work), None
    )


def theirs(name: str, peer: Peer) -> Side:
    """infinity-emb."""
    return Side(name, lambda **w: EmbeddingsPlan(peer.port, "/v1/embeddings", "bench", **w), peer)


@contextlib.contextmanager
def sides(folder: Path, var: Path, cores: int) -> Iterator[list[Side]]:
    """Everything that is to be compared, started and warm."""
    spec = MAKE_SPEC.format(model=MODEL, source=str(folder))
    with contextlib.ExitStack() as ending:
        found = []
        for dtype in DTYPES:
            say(f"starting infinity, {dtype}")
            log = var / f"bench-embeddings-{dtype}.log"
            peer = ending.enter_context(
                infinity(var / "peers/infinity", folder, dtype=dtype, log=log)
            )
            found.append(theirs(f"infinity {dtype}", peer))
            with found[-1].running():
                found[-1].ask("single", workload("single", 16, 99))
        say("starting Casola")
        casola = ending.enter_context(
            stack("postgres", models={MODEL: spec}, OMP_NUM_THREADS=str(cores))
        )
        found.insert(0, ours(casola))
        found[0].ask("single", workload("single", 64, 99))
        yield found


def measure(found: list[Side], size: Size) -> Runs:
    """All rounds; results by side and case."""
    runs: Runs = {}
    for number in range(size.rounds):
        for side in found:
            with side.running():
                for case, requests in size.requests.items():
                    result = side.ask(case, workload(case, requests, number))
                    runs.setdefault((side.name, case), []).append(result)
    return runs


def figures(runs: Runs) -> list[Row]:
    """One line per side and case."""
    return [
        {
            "side": side,
            "case": case,
            "texts_per_s": median([one.texts / one.seconds for one in results]),
            "tokens_per_s": median([one.tokens / one.seconds for one in results]),
            "latency_p50_ms": median([median(one.latencies) for one in results]),
            "latency_p99_ms": median([percentile(one.latencies, 0.99) for one in results]),
            "failed": sum(one.failed for one in results),
        }
        for (side, case), results in runs.items()
    ]


def ratios(runs: Runs, size: Size) -> list[Row]:
    """Ours over the better of the peer's, round by round."""

    def speed(side: str, case: str, number: int) -> float:
        one = runs[side, case][number]
        return one.texts / max(one.seconds, 1e-9)

    def best(case: str, number: int) -> float:
        return max(
            speed(side, case, number) for side, found in runs if found == case and side != OURS
        )

    return [
        {
            "case": case,
            "casola / best peer": median(
                [speed(OURS, case, n) / max(best(case, n), 1e-9) for n in range(size.rounds)]
            ),
            "target": TARGETS[case],
        }
        for case in size.requests
    ]


def agreement(found: list[Side]) -> list[Row]:
    """The least cosine between our vectors and each peer's."""
    work = [*workload("single", 8, 7), *workload("long", 2, 7)]
    vectors = {}
    for side in found:
        with side.running():
            # one request at a time, so that the vectors come in order
            plan = side.plan(work=work, concurrency=1, keeps=True)
            vectors[side.name] = drive(plan).vectors
    return [
        {"peer": name, "least cosine": min(map(_cosine, vectors[OURS], other))}
        for name, other in vectors.items()
        if name != OURS
    ]


def _cosine(one: list[float], two: list[float]) -> float:
    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    return dot(one, two) / (dot(one, one) * dot(two, two)) ** 0.5


def run(*, quick: bool) -> int:
    """Measure; returns how many requests failed."""
    var = Path(os.environ.get("VAR_DIR") or "var").resolve()
    size = QUICK if quick else FULL
    cores = len(os.sched_getaffinity(0))
    folder = make_folder(var / "minilm")
    with sides(folder, var, cores) as found:
        runs = measure(found, size)
        agreed = agreement(found)
    rows, compared = figures(runs), ratios(runs, size)
    table(f"embeddings, MiniLM-L6's shape, medians of {size.rounds} round(s)", rows)
    table("ratios", compared)
    table("agreement", agreed)
    keep("embeddings", {"rows": rows, "ratios": compared, "agreement": agreed})
    results = [result for several in runs.values() for result in several]
    for error in [error for result in results for error in result.errors][:5]:
        print(f"FAILED: {error}")
    return sum(result.failed for result in results)
