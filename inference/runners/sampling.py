"""Choosing the next token, vectorised over rows; the vocabulary is never sorted.

Each row belongs to one of three ways, by its own settings alone, so that a request's answer does
not depend on the company it keeps: greedy (`max`), plain (cumulative probabilities and one uniform
number from the request's own generator), or filtered (top-k, top-p, min-p: the best candidates
first, at most MAX_CANDIDATES, then the same).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
import torch

from inference.contracts.chat import Sampling
from inference.runners.device import to_device

MAX_CANDIDATES = 1024
FEW_CANDIDATES = 64
DEFAULT_TEMPERATURE = 0.7
LEAST_TEMPERATURE = 1e-5


class LogitProcessor(Protocol):
    """Changes one row's logits before the choice; told afterwards what was chosen.

    Order matters: penalties and biases first, masks last. A row without any allowed token is left
    with -inf throughout, and only its request fails.
    """

    is_over: bool = False
    """Whether the answer is complete, to end here with reason `stop`; need not be there."""

    def process(self, logits: torch.Tensor) -> None:
        """Change `logits` (`[vocabulary]`, float32) in place."""

    def accept(self, token: int) -> None:
        """Note the token that was chosen."""


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a ModelSpec's generation config says where the request says nothing."""

    temperature: float = DEFAULT_TEMPERATURE
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class Choice:
    """One request's settled settings and its generator of uniform numbers."""

    __slots__ = ("min_p", "random", "temperature", "top_k", "top_p", "width")

    def __init__(self, sampling: Sampling, defaults: SamplingDefaults, stream: int = 0) -> None:
        """None in `sampling` takes the default; a temperature of 0 or a top-k of 1 is greedy.

        `stream` numbers the choices of one prompt: each draws numbers of its own from the seed.
        """
        self.temperature = _first(sampling.temperature, defaults.temperature)
        self.top_p = _first(sampling.top_p, defaults.top_p)
        self.top_k = int(_first(sampling.top_k, defaults.top_k))
        self.min_p = _first(sampling.min_p, defaults.min_p)
        # Random takes the absolute value of a seed; 64 bits keep -1 and 1 apart
        seed = None if sampling.seed is None else sampling.seed % 2**64 + (stream << 64)
        self.random = Random(seed)
        self.width = self._width()

    def _width(self) -> int:
        """How many candidates to look at: 1 greedy, 0 all of them."""
        if self.temperature <= LEAST_TEMPERATURE or self.top_k == 1:
            return 1
        if self.top_k and self.top_k <= FEW_CANDIDATES:
            return FEW_CANDIDATES
        if self.top_k or self.top_p < 1 or self.min_p > 0:
            return MAX_CANDIDATES
        return 0


def _first(value: float | None, default: float) -> float:
    return default if value is None else value


class Penalties:
    """Frequency and presence (over the answer), repetition (over prompt and answer), and biases.

    What a row's logits are to be changed by is kept as arrays, so that a step changes all its rows
    at once (see `penalise`).
    """

    def __init__(
        self,
        sampling: Sampling,
        repetition: float,
        prompt: Sequence[int],
        bias: Mapping[int, float] | None = None,
    ) -> None:
        """Use `penalties_for`, which leaves this out where nothing is to be done."""
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        bias = bias or {}
        self.repetition = repetition
        self.seen = array("q", dict.fromkeys(prompt) if repetition != 1.0 else ())
        self.ids = array("q", bias)
        self.amounts = array("f", bias.values())
        self._known = set(self.seen)
        self._places = {token: place for place, token in enumerate(bias)}
        self._used: set[int] = set()

    def process(self, logits: torch.Tensor) -> None:
        """Change one row's logits; see LogitProcessor."""
        penalise(logits[None], {0: self})

    def accept(self, token: int) -> None:
        """Count a token of the answer."""
        if self.repetition != 1.0 and token not in self._known:
            self._known.add(token)
            self.seen.append(token)
        if not self._frequency and not self._presence:
            return
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self.ids)
            self.ids.append(token)
            self.amounts.append(0.0)
        self.amounts[place] -= self._frequency
        if token not in self._used:
            self._used.add(token)
            self.amounts[place] -= self._presence


def penalise(logits: torch.Tensor, penalties: Mapping[int, Penalties]) -> None:
    """Change `logits` (`[rows, vocabulary]`, float32) in place by the penalties of each row."""
    repeated = {row: one.seen for row, one in penalties.items() if one.seen}
    if repeated:
        where, rows = _places(repeated, logits)
        factors = torch.ones(logits.shape[0])
        for row in repeated:
            factors[row] = penalties[row].repetition
        factor = factors.to(logits.device)[rows]
        known = logits[where]
        logits[where] = torch.where(known > 0, known / factor, known * factor)
    added = {row: one.ids for row, one in penalties.items() if one.ids}
    if added:
        where, _ = _places(added, logits)
        amounts = np.concatenate([np.frombuffer(penalties[row].amounts, "f") for row in added])
        logits[where] += torch.from_numpy(amounts).to(logits.device)


def _places(
    ids: Mapping[int, array[int]], logits: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Where the tokens of each row are in `logits`, and the rows alone."""
    tokens = np.concatenate([np.frombuffer(one, "q") for one in ids.values()])
    rows = np.repeat(list(ids), [len(one) for one in ids.values()])
    index = torch.from_numpy(np.stack((rows, tokens))).to(logits.device)
    return (index[0], index[1]), index[0]


def penalties_for(
    sampling: Sampling,
    defaults: SamplingDefaults,
    prompt: Sequence[int],
    bias: Mapping[int, float] | None = None,
) -> list[LogitProcessor]:
    """The processors a request's settings ask for; none in the usual case.

    They must come before any mask: a bias may not bring back what a grammar forbids.
    """
    repetition = _first(sampling.repetition_penalty, defaults.repetition_penalty)
    wished = repetition != 1.0 or sampling.frequency_penalty or sampling.presence_penalty or bias
    return [Penalties(sampling, repetition, prompt, bias)] if wished else []


def sample(logits: torch.Tensor, choices: list[Choice]) -> list[int | None]:
    """Choose one token per row of `logits` (`[rows, vocabulary]`).

    None stands for a row whose logits hold no valid number; the other rows are unaffected.
    """
    return [None if token < 0 else token for token in choose(logits, choices).tolist()]


def choose(logits: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    """The same as a tensor `[rows]`, int64, where -1 stands for None.

    It is left on the device, and the host waits for nothing. Every row draws its number now.
    """
    ways: dict[int, list[int]] = {}
    for row, choice in enumerate(choices):
        ways.setdefault(choice.width, []).append(row)
    if len(ways) == 1:
        return _choose(next(iter(ways)), logits, choices)
    chosen = torch.full((len(choices),), -1, dtype=torch.long, device=logits.device)
    for width, rows in ways.items():
        index = to_device(rows, torch.long, logits.device)
        chosen[index] = _choose(width, logits[index], [choices[row] for row in rows])
    return chosen


def _choose(width: int, logits: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    if width == 1:
        return _greedy(logits)
    if width == 0:
        return _plain(logits, choices)
    return _filtered(logits, choices, width)


def _greedy(logits: torch.Tensor) -> torch.Tensor:
    # max, not argmax: five times faster on CPUs in bfloat16, and it shows a NaN for free
    best, tokens = logits.max(-1)
    return torch.where(best.isfinite(), tokens, -1)


def _scaled(logits: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    heat = to_device([choice.temperature for choice in choices], torch.float32, logits.device)
    return logits.float() / heat[:, None]


def _plain(logits: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    return _draw(torch.softmax(_scaled(logits, choices), -1), choices)


def _filtered(logits: torch.Tensor, choices: Sequence[Choice], width: int) -> torch.Tensor:
    scaled = _scaled(logits, choices)
    device = logits.device
    best, ids = scaled.topk(min(width, scaled.shape[1]), dim=-1)
    ranks = torch.arange(best.shape[1], device=device)
    wished = [choice.top_k or MAX_CANDIDATES for choice in choices]
    top_k = to_device(wished, torch.long, device)
    total = torch.logsumexp(scaled, -1, keepdim=True) if width == MAX_CANDIDATES else best[:, :1]
    best = best.masked_fill(ranks >= top_k[:, None], -math.inf)
    has_k = to_device([bool(choice.top_k) for choice in choices], torch.bool, device)[:, None]
    total = torch.where(has_k, torch.logsumexp(best, -1, keepdim=True), total)
    weights = torch.exp(best - total)
    top_p = to_device([choice.top_p for choice in choices], torch.float32, device)[:, None]
    min_p = to_device([choice.min_p for choice in choices], torch.float32, device)[:, None]
    before = weights.cumsum(-1) - weights
    drop = (before >= top_p) | (weights < min_p * weights[:, :1])
    drop[:, 0] = False
    picks = _draw(weights.masked_fill(drop, 0.0), choices)
    tokens = ids.gather(1, picks.clamp(min=0)[:, None])[:, 0]
    return torch.where(picks < 0, -1, tokens)


def _draw(weights: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    """One index per row, in proportion to `weights`; -1 where they are no valid numbers."""
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    numbers = [choice.random.random() for choice in choices]
    uniform = to_device(numbers, torch.float32, weights.device)
    target = uniform[:, None].to(sums.dtype) * total
    # strictly below the total, or rounding could pick a token of probability zero
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    picks = torch.searchsorted(sums, target, right=True)
    picks = torch.where(total.isfinite() & (total > 0), picks, -1)
    return picks[:, 0]
