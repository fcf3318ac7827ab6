"""The Runner of models that make vectors: embeddings, and rerank and score by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inference.contracts import embeddings, rerank, score
from inference.contracts.embeddings import EmbeddingsInput
from inference.runners.base import InvalidInput
from inference.runners.batch_line import BatchRequest, Item
from inference.runners.batch_runner import BatchRunner
from inference.runners.pairs import pairs_of
from inference.runners.pooling import DOCUMENT_NAMES, QUERY_NAMES


class EmbeddingsRunner(BatchRunner):
    """See the module's text."""

    tasks = frozenset({embeddings.TASK, rerank.TASK, score.TASK})
    has_scores = False

    def prepare(
        self, request_id: str, task: str, request: dict[str, Any], *, salt: str
    ) -> BatchRequest:
        """See BatchRunner."""
        if task == embeddings.TASK:
            return self._embeddings(request_id, EmbeddingsInput.from_dict(request), salt)
        return self._cosines(request_id, task, request, salt)

    def compute(self, items: Sequence[Item]) -> Sequence[Any]:
        """See BatchRunner."""
        assert self._encoder is not None  # noqa: S101 - it is loaded
        return self._encoder.vectors(items, self._pooling)

    def _embeddings(self, request_id: str, wish: EmbeddingsInput, owner: str) -> BatchRequest:
        width = self._width
        size = width if wish.dimensions is None else wish.dimensions
        if not 1 <= size <= width:
            raise InvalidInput(
                f"dimensions must be between 1 and {width} for this model", param="dimensions"
            )
        unit = self._pooling.normalise

        def finish(values: list[Any]) -> dict[str, Any]:
            found = np.stack(values)
            return vectors_result(found if size == width else shortened(found, size, unit=unit))

        request = BatchRequest(request_id, owner, finish)
        before = self._pooling.default_prompt
        texts = [(i, before + text) for i, text in enumerate(wish.input) if isinstance(text, str)]
        params = [f"input[{i}]" for i, _ in texts]
        read = self._reader.texts([text for _, text in texts], params, cut=wish.truncate)
        known = dict(zip((i for i, _ in texts), read, strict=True))
        for i, text in enumerate(wish.input):
            tokens = known.get(i)
            if tokens is None:
                tokens = self._reader.given(text, f"input[{i}]", cut=wish.truncate)  # type: ignore[arg-type]
            request.add(tokens)
        return request

    def _cosines(
        self, request_id: str, task: str, request: dict[str, Any], owner: str
    ) -> BatchRequest:
        """Each distinct text once; the score of a pair is the cosine, moved to 0..1."""
        pairs, query_param = pairs_of(task, request)
        places: dict[tuple[str, str], int] = {}
        asked = [places.setdefault(("query", one), len(places)) for one, _ in pairs]
        found = [places.setdefault(("document", two), len(places)) for _, two in pairs]
        before = {
            "query": self._pooling.prompt(*QUERY_NAMES),
            "document": self._pooling.prompt(*DOCUMENT_NAMES),
        }

        def finish(values: list[Any]) -> dict[str, Any]:
            vectors = unit_length(np.stack(values))
            cosines = (vectors[asked] * vectors[found]).sum(-1)
            return {"scores": np.clip((1 + cosines) / 2, 0, 1).tolist()}

        # as with a reranker, a query must fit and a document is cut
        queries = [before[kind] + text for kind, text in places if kind == "query"]
        documents = [before[kind] + text for kind, text in places if kind == "document"]
        tokens = iter(
            [
                *self._reader.texts(queries, [query_param] * len(queries)),
                *self._reader.texts(documents, ["documents"] * len(documents), cut=-1),
            ]
        )
        batch = BatchRequest(request_id, owner, finish)
        for _ in places:
            batch.add(next(tokens))
        return batch

    @property
    def _width(self) -> int:
        assert self._encoder is not None  # noqa: S101 - it is loaded
        return self._encoder.config.hidden_size


def vectors_result(vectors: np.ndarray) -> dict[str, Any]:
    """What travels: all vectors as little-endian float32, one behind the other."""
    return {"vectors": vectors.astype("<f4").tobytes(), "width": vectors.shape[1]}


def shortened(vectors: np.ndarray, size: int, *, unit: bool) -> np.ndarray:
    """The first `size` numbers of each vector, brought back to unit length."""
    return unit_length(vectors[:, :size]) if unit else vectors[:, :size]


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one; one without any length stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
