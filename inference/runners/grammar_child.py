"""Tries grammars out, one per forked process, so that a bomb harms nobody. Run as a file.

Reads one JSON text per line, `{"grammar": …}`, and answers with one line each: `{"error": null}`,
`{"error": "…"}`, or `{"died": true}` where the trial took too long or too much memory (`by_clock`
where it was the clock, which on a busy machine says little of the grammar). The limits are the
kernel's: they hold even inside llguidance, and even when nobody waits for the answer.

Started with one argument, a JSON object: `tokenizer` (a file descriptor), `vocabulary`, `eos`,
`limits` (llguidance's), `memory` (bytes a trial may add), `cpu_s` and `wall_s` of one trial.
It imports nothing of the project: what it needs to hold besides the vocabulary should stay small.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
from typing import Any

import llguidance

WALKS = 3
STEPS = 24
LONGEST_ERROR = 500
PAGE = resource.getpagesize()


def main() -> None:
    """Serve until the input ends."""
    settings = json.loads(sys.argv[1])
    tokenizer = llguidance.LLTokenizer(
        _read(settings["tokenizer"]), n_vocab=settings["vocabulary"], eos_token=settings["eos"]
    )
    limits = llguidance.LLParserLimits(verbose_errors=False, **settings["limits"])
    _say({"ready": True})
    for line in sys.stdin:
        grammar = json.loads(line)["grammar"]
        child = os.fork()
        if child == 0:
            _bound(settings)
            _say({"error": trial(tokenizer, grammar, limits)})
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            by_clock = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            _say({"died": True, "by_clock": by_clock})


def trial(tokenizer: Any, grammar: str, limits: Any) -> str | None:
    """What is wrong with a grammar, seen by compiling it and walking a little way at random."""
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    for seed in range(WALKS):
        copy = matcher.deep_copy()
        _walk(copy, random.Random(seed))
        if copy.is_error():
            return copy.get_error()[:LONGEST_ERROR]
    return None


def _walk(matcher: Any, rng: random.Random) -> None:
    """Up to STEPS tokens, each any that the grammar allows."""
    for _ in range(STEPS):
        if matcher.is_stopped():
            return
        mask = matcher.compute_bitmask()
        token = _some_bit(mask, rng.randrange(8 * len(mask)))
        if token is None or not matcher.consume_token(token):
            return


def _some_bit(mask: bytes, start: int) -> int | None:
    """The first bit that is set at or after `start`, going round; None if none is."""
    for offset in range(len(mask) + 1):
        index = (start // 8 + offset) % len(mask)
        if mask[index]:
            return next(8 * index + bit for bit in range(8) if mask[index] >> bit & 1)
    return None


def _bound(settings: dict[str, Any]) -> None:
    """Have the kernel end this process at its limits; the engine goes first on the cores."""
    with open("/proc/self/statm", "rb") as file:
        now = int(file.read().split()[0]) * PAGE
    most = now + settings["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, settings["cpu_s"])
    signal.setitimer(signal.ITIMER_REAL, settings["wall_s"])
    os.nice(10)


def _read(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).decode()


def _say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
