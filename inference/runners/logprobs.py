"""Log probabilities of the tokens of an answer, as OpenAI's objects.

They are the model's own: the log-softmax of its logits before penalties, biases, masks, temperature
and filters, so they tell what the model thought and not how the token was chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

MOST_TOP = 20
# JSON has no infinity; OpenAI's own stand-in for "impossible"
LEAST = -9999.0

Table = Callable[[int], bytes]


class LogprobLine:
    """The entries of one choice, held until the text of their tokens goes out."""

    __slots__ = ("_given", "_held", "_named", "_seen", "_shown", "top")

    def __init__(self, top: int, *, shown: Table, named: Table) -> None:
        """`top` alternatives for each token, 0 to MOST_TOP.

        `shown` gives the bytes that a token adds to the text (none: it is not listed), `named` the
        same with names for special tokens.
        """
        self.top = top
        self._shown = shown
        self._named = named
        self._held: deque[tuple[int, dict[str, Any]]] = deque()
        self._seen = 0
        self._given = 0

    def push(self, token: int, logprob: float, best: Sequence[tuple[int, float]]) -> None:
        """Note a token of the answer; `best` are at least `top` tokens with their values."""
        shown = self._shown(token)
        if not shown:
            return
        entry = self._object(token, logprob)
        entry["top_logprobs"] = [self._object(other, value) for other, value in best[: self.top]]
        self._held.append((self._seen, entry))
        self._seen += len(shown)

    def take(self, text: str) -> tuple[dict[str, Any], ...]:
        """The entries that go with `text`, the next piece given out."""
        self._given += len(text.encode())
        ready = []
        while self._held and self._held[0][0] < self._given:
            ready.append(self._held.popleft()[1])
        return tuple(ready)

    def finish(self) -> tuple[dict[str, Any], ...]:
        """Those still held, at the end of an answer that nothing was cut from."""
        left = tuple(entry for _, entry in self._held)
        self._held.clear()
        return left

    def _object(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._named(token)
        return {
            "token": raw.decode("utf-8", "replace"),
            "logprob": max(logprob, LEAST),
            "bytes": list(raw),
        }


class StepLogprobs:
    """The log-softmax of the rows of one step that ask for it, before anything changes them."""

    def __init__(self, logits: torch.Tensor, lines: Sequence[LogprobLine | None]) -> None:
        """`logits` is `[rows, vocabulary]`; rows without a line are left alone."""
        self._lines = {row: line for row, line in enumerate(lines) if line is not None}
        self._logs = torch.log_softmax(logits[list(self._lines)].float(), -1)
        most = max(line.top for line in self._lines.values())
        self._best = self._logs.topk(min(most, logits.shape[1]), -1)

    def tell(self, tokens: Sequence[int | None]) -> None:
        """Give each line the token that was chosen for its row (None: the row is lost)."""
        chosen = torch.tensor([tokens[row] or 0 for row in self._lines], device=self._logs.device)
        values = self._logs.gather(1, chosen[:, None])[:, 0].tolist()
        tops = zip(self._best.indices.tolist(), self._best.values.tolist(), strict=True)
        for (row, line), value, (ids, best) in zip(self._lines.items(), values, tops, strict=True):
            token = tokens[row]
            if token is not None:
                line.push(token, value, list(zip(ids, best, strict=True)))
