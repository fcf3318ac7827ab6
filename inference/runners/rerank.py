"""The Runner of cross-encoders: rerank and score by a model that reads both texts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.contracts import rerank, score
from inference.runners.batch_line import BatchRequest, Item
from inference.runners.batch_runner import BatchRunner
from inference.runners.pairs import pairs_of


class RerankRunner(BatchRunner):
    """See the module's text."""

    tasks = frozenset({rerank.TASK, score.TASK})
    has_scores = True

    def prepare(
        self, request_id: str, task: str, request: dict[str, Any], *, salt: str
    ) -> BatchRequest:
        """See BatchRunner."""
        pairs, query_param = pairs_of(task, request)
        batch = BatchRequest(request_id, salt, lambda values: {"scores": values})
        for tokens, kinds in self._reader.pairs(pairs, query_param=query_param):
            batch.add(tokens, kinds)
        return batch

    def compute(self, items: Sequence[Item]) -> Sequence[Any]:
        """See BatchRunner."""
        assert self._encoder is not None  # noqa: S101 - it is loaded
        return self._encoder.scores(items)
