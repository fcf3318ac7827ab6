"""Embeddings, rerank and score at an upstream.

`dimensions` is done here, as for every other model. A model that only embeds ranks and scores by
cosine, also as here. TEI's own form of rerank is a dialect; it has no score, so pairs are ranked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from inference.contracts import embeddings, rerank, score
from inference.contracts.embeddings import EmbeddingsInput
from inference.contracts.rerank import RerankInput
from inference.contracts.score import ScoreInput
from inference.runners.base import InvalidInput, LoadError
from inference.runners.upstream_link import Unreadable, Upstream, parsed
from inference.runners.upstream_text import count_of, guessed_tokens

OPENAI, TEI = "openai", "tei"
LARGE = 256 * 1024  # bytes that are parsed beside the event loop
Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(slots=True)
class Read:
    """What came of a request, and the tokens that were read for it."""

    result: dict[str, Any]
    tokens: int


class Reader:
    """One upstream's encoders."""

    def __init__(self, model: str, tasks: frozenset[str], options: dict[str, Any]) -> None:
        """`options`: dialect, most_inputs (per request to the upstream). Raises LoadError."""
        self._model = model
        self._by_cosine = embeddings.TASK in tasks and not tasks & {rerank.TASK, score.TASK}
        self._is_tei = options.get("dialect", OPENAI) == TEI
        if options.get("dialect", OPENAI) not in (OPENAI, TEI):
            raise LoadError("The dialect is either openai or tei")
        most = options.get("most_inputs", 0)
        if type(most) is not int or most < 0:
            raise LoadError("most_inputs must be a whole number")
        self._most = most

    async def read(self, upstream: Upstream, task: str, request: dict[str, Any]) -> Read:
        """Carry out one request. Raises UpstreamError or InvalidInput."""
        if task == embeddings.TASK:
            return await self._embed(upstream, EmbeddingsInput.from_dict(request))
        if task == rerank.TASK:
            wish = RerankInput.from_dict(request)
            pairs = [(wish.query, document) for document in wish.documents]
        else:
            pairs = ScoreInput.from_dict(request).pairs()
        if self._by_cosine:
            return await self._compare(upstream, pairs)
        if task == rerank.TASK or self._is_tei:
            return await self._rank(upstream, pairs)
        return await self._score(upstream, pairs)

    # -- embeddings -----------------------------------------------------------------------------

    async def _embed(self, upstream: Upstream, wish: EmbeddingsInput) -> Read:
        vectors, tokens = await self._vectors(upstream, list(wish.input), wish.truncate)
        if wish.dimensions is not None:
            vectors = _cut(vectors, wish.dimensions)
        packed = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        return Read({"vectors": packed, "width": vectors.shape[1]}, tokens)

    async def _vectors(
        self, upstream: Upstream, inputs: list[Any], truncate: int | None
    ) -> tuple[Vectors, int]:
        more = {} if truncate is None else {"truncate_prompt_tokens": truncate}
        found, tokens = [], 0
        for part in self._parts(inputs):
            # some servers know base64 only by name: numbers are taken as well
            body = {"model": self._model, "input": part, "encoding_format": "base64", **more}
            answer = await _ask(upstream, "/embeddings", body)
            found.append(await _beside(vectors_of, answer, len(part)))
            tokens += _tokens(answer, part)
        if len({one.shape[1] for one in found}) != 1:
            raise Unreadable
        return np.concatenate(found), tokens

    async def _compare(self, upstream: Upstream, pairs: list[tuple[str, str]]) -> Read:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        vectors, tokens = await self._vectors(upstream, texts, -1)
        units = _unit(vectors)
        at = {text: number for number, text in enumerate(texts)}
        left = units[[at[one] for one, _ in pairs]]
        right = units[[at[other] for _, other in pairs]]
        cosines = np.einsum("ij,ij->i", left, right)
        return Read({"scores": np.clip((1 + cosines) / 2, 0, 1).tolist()}, tokens)

    # -- rerank and score -------------------------------------------------------------------------

    async def _rank(self, upstream: Upstream, pairs: list[tuple[str, str]]) -> Read:
        scores, tokens = [], 0
        for query, group in groupby(pairs, key=lambda pair: pair[0]):
            for part in self._parts([document for _, document in group]):
                if self._is_tei:
                    body = {"query": query, "texts": part, "truncate": True}
                else:
                    body = {"model": self._model, "query": query, "documents": part}
                answer = await _ask(upstream, "/rerank", body, is_bare=self._is_tei)
                scores += scores_of(answer.get("results"), len(part))
                tokens += _tokens(answer, [[query] * len(part), part])
        return Read({"scores": scores}, tokens)

    async def _score(self, upstream: Upstream, pairs: list[tuple[str, str]]) -> Read:
        scores, tokens = [], 0
        for part in self._parts(pairs):
            first, second = [one for one, _ in part], [other for _, other in part]
            sides = {"text_1": first[0] if len(set(first)) == 1 else first, "text_2": second}
            answer = await _ask(upstream, "/score", {"model": self._model, **sides})
            scores += scores_of(answer.get("data"), len(part))
            tokens += _tokens(answer, [first, second])
        return Read({"scores": scores}, tokens)

    def _parts(self, items: list[Any]) -> list[list[Any]]:
        size = self._most or len(items)
        return [items[at : at + size] for at in range(0, len(items), size)]


async def _ask(
    upstream: Upstream, path: str, body: dict[str, Any], *, is_bare: bool = False
) -> dict[str, Any]:
    """The answer as an object; a bare list becomes its `results`."""
    content = await upstream.answer(path, json.dumps(body, ensure_ascii=False).encode())
    if is_bare and content.lstrip()[:1] == b"[":
        content = b'{"results":' + content + b"}"
    if len(content) > LARGE:
        return await asyncio.to_thread(parsed, content)
    return parsed(content)


async def _beside(function: Callable[..., Any], answer: dict[str, Any], count: int) -> Any:
    waiting: Awaitable[Any] = asyncio.to_thread(function, answer, count)
    return await waiting


def _tokens(answer: dict[str, Any], texts: Sequence[Any]) -> int:
    """The upstream's count, under either name, or a guess."""
    usage = answer.get("usage")
    total = count_of(usage, "total_tokens", -1)
    read = count_of(usage, "prompt_tokens", total)
    return read if read > 0 else guessed_tokens(list(texts))


def vectors_of(answer: dict[str, Any], count: int) -> Vectors:
    """Rows in the order of the inputs. Raises Unreadable."""
    entries = _in_order(answer.get("data"), count)
    try:
        rows = [_vector(entry["embedding"]) for entry in entries]
        found = np.stack(rows)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise Unreadable from error
    if found.ndim != 2 or not found.shape[1] or not np.isfinite(found).all():
        raise Unreadable
    return found


def _vector(value: Any) -> Vectors:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
    with np.errstate(over="ignore"):  # what is infinite then is found
        return np.array(value, dtype=np.float32)


def scores_of(entries: Any, count: int) -> list[float]:
    """Numbers between 0 and 1 in the order of the documents. Raises Unreadable."""
    found = []
    for entry in _in_order(entries, count):
        value = entry.get("relevance_score", entry.get("score"))
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1:
            raise Unreadable
        found.append(float(value))
    return found


def _in_order(entries: Any, count: int) -> list[dict[str, Any]]:
    """Exactly one entry for each number from 0."""
    if not isinstance(entries, list) or len(entries) != count:
        raise Unreadable
    found = {entry.get("index"): entry for entry in entries if isinstance(entry, dict)}
    try:
        return [found[number] for number in range(count)]
    except KeyError as error:
        raise Unreadable from error


def _cut(vectors: Vectors, dimensions: int) -> Vectors:
    width = vectors.shape[1]
    if dimensions > width:
        raise InvalidInput(f"must be at most {width}, the model's own", param="dimensions")
    return _unit(vectors[:, :dimensions])


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
