"""Grammars are tried in a process of their own before this one compiles them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from inference.runners.helper_process import HelperPool

PROGRAM = Path(__file__).with_name("grammar_child.py")
SPARE_SECONDS = 3.0
MOST_HELPERS = 4
TOO_MUCH = "it takes too much time or memory"
TOO_SLOW = "it takes too much time"


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What one trial may take: bytes on top of the vocabulary, seconds of CPU and of the clock."""

    memory: int = 192 << 20
    cpu_s: float = 0.6
    wall_s: float = 1.2


class GrammarGuard:
    """Runs trials, at most `helpers` at a time; helpers start when first needed. Thread-safe."""

    def __init__(
        self,
        tokenizer: str,
        vocabulary: int,
        eos_ids: list[int],
        limits: dict[str, int],
        *,
        trial: TrialLimits | None = None,
        helpers: int | None = None,
    ) -> None:
        """`tokenizer` is the text of a tokenizer.json; `limits` are llguidance's.

        `helpers` None: one for every four cores, so that trials leave the engine its own.
        """
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the guard is
        self._file.write(tokenizer.encode())
        self._file.flush()
        self._trial = trial or TrialLimits()
        settings = {
            "tokenizer": self._file.fileno(),
            "vocabulary": vocabulary,
            "eos": eos_ids,
            "limits": limits,
            **asdict(self._trial),
        }
        self._pool = HelperPool(
            PROGRAM,
            settings,
            count=helpers or _usual_helpers(),
            descriptors=(self._file.fileno(),),
        )

    def fault(self, grammar: str) -> str | None:
        """What is wrong with a grammar, None if nothing. Raises Busy when too many wait for it.

        TOO_SLOW need not be so another time: the machine may have been busy.
        """
        answer = self._pool.ask({"grammar": grammar}, self._trial.wall_s + SPARE_SECONDS)
        if answer is None or answer.get("by_clock"):
            return TOO_SLOW
        if answer.get("died"):
            return TOO_MUCH
        return answer["error"]

    def close(self) -> None:
        """End the helpers."""
        self._pool.close()
        self._file.close()


def _usual_helpers() -> int:
    return max(1, min(MOST_HELPERS, len(os.sched_getaffinity(0)) // 4))
