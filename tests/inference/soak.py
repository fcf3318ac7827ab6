"""Requests of random shape, cancelled at random: `python -m tests.inference.soak --help`.

The short form is a test (test_soak.py); `make endure` runs the long one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners.base import Busy, Delta, Ended, Event, Failed, RunnerConfig
from inference.runners.chat import ChatRunner
from inference.runners.device import resident_bytes
from tests.inference.tiny_models import expected_tokens, save_folder, tiny_tokenizer

ORGANIZATIONS = ("one", "two", "three")
OPTIONS = {"prefix_cache_bytes": 3_000_000}
SLOTS = 12
AT_ONCE = 60
MIB = 1024 * 1024


@dataclass
class Plan:
    """What one run does; everything random comes from the seed. Every `check_every`th greedy
    request is compared with `generate`."""

    requests: int
    seed: int = 1
    check_every: int = 20
    settle: float = 60.0


@dataclass
class Report:
    """What came of it. `problems` is empty where all is well; memory in bytes."""

    requests: int = 0
    events: int = 0
    cancelled: int = 0
    failed: int = 0
    completed: int = 0
    checked: int = 0
    tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    memory: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """How much larger the last tenth's memory is than that after the first third."""
        third, tail = len(self.memory) // 3, max(1, len(self.memory) // 10)
        if not third:
            return 0.0
        base = max(self.memory[third - tail : third + tail])
        return max(self.memory[-tail:]) / base - 1


class Book:
    """What each request has been sent; forgets the texts of those it need not compare."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.texts: dict[str, list[str]] = {}
        self.counts: dict[str, int] = {}
        self.ends: dict[str, Ended | Failed] = {}
        self.open: set[str] = set()
        self.changed = threading.Condition()

    def __call__(self, events: list[Event]) -> None:
        with self.changed:
            for event in events:
                self._take(event)
            self.changed.notify_all()

    def _take(self, event: Event) -> None:
        request_id = event.request_id
        self.report.events += 1
        if self.counts.get(request_id):
            self.report.problems.append(f"{request_id}: {type(event).__name__} after the end")
        if isinstance(event, Delta) and request_id in self.texts:
            self.texts[request_id].append(event.text)
        if isinstance(event, Ended | Failed):
            self.counts[request_id] = self.counts.get(request_id, 0) + 1
            self.open.discard(request_id)
            if request_id in self.texts:
                self.ends[request_id] = event
            self._count(event)

    def _count(self, event: Ended | Failed) -> None:
        report = self.report
        report.tokens += event.units.completion_tokens
        report.cached_tokens += event.units.cached_tokens
        if isinstance(event, Failed):
            report.failed += 1
            report.problems.append(f"{event.request_id}: {event.message}")
        elif event.reason == "cancelled":
            report.cancelled += 1
        else:
            report.completed += 1

    def wait(self, most: int, timeout: float) -> bool:
        """Until at most `most` requests are open; False if that takes too long."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.open) <= most, timeout)


class Shapes:
    """Random requests; some share the start of their prompt, in any organization."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.starts = [self._tokens(rng.randint(30, 150)) for _ in range(12)]

    def _tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(3, len(tiny_tokenizer())) for _ in range(count)]

    def prompt(self) -> list[int]:
        """Token ids, so that nothing but the engine is at work."""
        rng = self.rng
        start = rng.choice(self.starts) if rng.random() < 0.6 else []
        return start + self._tokens(rng.randint(1, 60))

    def greedy(self) -> ChatInput:
        """One whose answer `generate` knows."""
        return ChatInput(
            [],
            Sampling(temperature=0.0, repetition_penalty=1.0),
            max_tokens=self.rng.randint(1, 24),
            ignore_eos=True,
            prompts=(self.prompt(),),
        )

    def any(self) -> ChatInput:
        """Anything that is allowed."""
        rng = self.rng
        sampling = Sampling(
            temperature=rng.choice([None, 0.0, 0.7, 1.5]),
            top_p=rng.choice([None, 0.9]),
            top_k=rng.choice([None, 0, 5, 200]),
            min_p=rng.choice([None, 0.05]),
            frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
            repetition_penalty=rng.choice([None, None, 1.2]),
            seed=rng.choice([None, rng.randrange(2**63)]),
        )
        bias = {rng.randrange(len(tiny_tokenizer())): rng.uniform(-100, 100) for _ in range(3)}
        return ChatInput(
            [],
            sampling,
            max_tokens=rng.choice([None, *range(1, 40)]) if rng.random() < 0.3 else 8,
            stop=rng.choice([(), (), ("e",), ("the", "qu")]),
            ignore_eos=rng.random() < 0.5,
            n=rng.choice([1, 1, 1, 2, 3, 16]),
            top_logprobs=rng.choice([None, None, 0, 5]),
            logit_bias=bias if rng.random() < 0.2 else {},
            prompts=tuple(self.prompt() for _ in range(rng.choice([1, 1, 1, 2]))),
            echo=rng.random() < 0.1,
        )


def run(plan: Plan, folder: Path) -> Report:
    """One soak over the tiny model in `folder`."""
    report = Report(requests=plan.requests)
    config = RunnerConfig("tiny", str(folder), dtype="float32", slots=SLOTS, options=OPTIONS)
    runner = ChatRunner(config)
    runner.load(lambda share, text: None)
    book = Book(report)
    runner.start(book)
    began = time.monotonic()
    rng = random.Random(plan.seed)
    shapes = Shapes(rng)
    asked: dict[str, ChatInput] = {}
    try:
        for number in range(plan.requests):
            _ask(runner, book, shapes, asked, number, plan)
            if rng.random() < 0.3:
                runner.cancel(f"{rng.randint(max(0, number - AT_ONCE), number)} any")
            if number % max(1, plan.requests // 200) == 0:
                report.memory.append(resident_bytes())
            if len(asked) >= 20:
                _compare(book, asked, report)
        if not book.wait(0, plan.settle):
            report.problems.append(f"no end in time: {sorted(book.open)[:10]}")
        report.memory.append(resident_bytes())
        report.seconds = time.monotonic() - began
        _compare(book, asked, report)
        _look_over(runner, book, report)
    finally:
        runner.unload()
    return report


def _ask(
    runner: ChatRunner,
    book: Book,
    shapes: Shapes,
    asked: dict[str, ChatInput],
    number: int,
    plan: Plan,
) -> None:
    if not book.wait(AT_ONCE, plan.settle):
        raise TimeoutError("the engine does not get on")
    is_checked = number % plan.check_every == 0
    chat = shapes.greedy() if is_checked else shapes.any()
    request_id = f"{number} greedy" if is_checked else f"{number} any"
    with book.changed:
        book.open.add(request_id)
        if is_checked:
            asked[request_id] = chat
            book.texts[request_id] = []
    salt = shapes.rng.choice(ORGANIZATIONS)
    while True:
        try:
            runner.submit(request_id, TASK, chat.as_dict(), salt=salt)
        except Busy:
            time.sleep(0.01)
        else:
            return


def _compare(book: Book, asked: dict[str, ChatInput], report: Report) -> None:
    """Those that have ended must say what `generate` says."""
    with book.changed:
        done = [request_id for request_id in asked if request_id in book.ends]
        texts = {request_id: "".join(book.texts.pop(request_id)) for request_id in done}
        for request_id in done:
            del book.ends[request_id]
    for request_id, text in texts.items():
        chat = asked.pop(request_id)
        tokens = expected_tokens(chat.prompts[0], chat.max_tokens)
        wanted = tiny_tokenizer().decode(tokens, skip_special_tokens=True)
        report.checked += 1
        # an answer may end within a character, which `decode` shows as a replacement
        if not wanted.startswith(text) or len(wanted) - len(text) > 3:
            report.problems.append(f"{request_id}: {text!r} is not {wanted!r}")


def _look_over(runner: ChatRunner, book: Book, report: Report) -> None:
    """Nothing may be left in the engine, and each request has ended once."""
    until = time.monotonic() + 5
    while runner.stats().active and time.monotonic() < until:
        time.sleep(0.01)
    stats = runner.stats()
    if stats.active or stats.waiting or stats.cache_used:
        report.problems.append(f"slots are lost: {stats}")
    if stats.prefix_used > stats.prefix_total or stats.prefix_total > OPTIONS["prefix_cache_bytes"]:
        report.problems.append(f"the prefix cache is too large: {stats}")
    if set(book.counts.values()) != {1} or len(book.counts) != report.requests:
        report.problems.append("not every request has one end")


def main() -> int:
    """Run, tell, and say whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check-every", type=int, default=20)
    parser.add_argument("--growth", type=float, default=0.05, help="of memory that is allowed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(options.requests, options.seed, options.check_every)
        report = run(plan, save_folder(Path(folder) / "tiny"))
    if report.growth > options.growth:
        report.problems.append(f"memory grew by {report.growth:.1%}")
    print(
        f"{report.requests} requests in {report.seconds:.0f} s: {report.completed} completed, "
        f"{report.cancelled} cancelled, {report.failed} failed; {report.tokens} tokens, "
        f"{report.cached_tokens} prompt tokens from the prefix cache; {report.checked} answers "
        f"compared; memory {report.memory[len(report.memory) // 3] / MIB:.0f} MiB after a third, "
        f"{report.memory[-1] / MIB:.0f} MiB at the end ({report.growth:+.1%})"
    )
    for problem in report.problems[:20]:
        print("PROBLEM", problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
