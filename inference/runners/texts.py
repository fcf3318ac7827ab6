"""From texts to the tokens an encoder reads: one text, token ids of a caller, or a pair."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from inference.runners.base import InvalidInput

TOO_LONG = "context_length_exceeded"
Tokens = list[int]


class TextReader:
    """Thread-safe: nothing in here changes."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, context: int, vocabulary: int
    ) -> None:
        """`context` counts the marks that the tokenizer puts around a text."""
        self._backend = tokenizer.backend_tokenizer
        self._context = context
        self._vocabulary = vocabulary
        probe = self._backend.encode("a")
        inner = [i for i, is_mark in enumerate(probe.special_tokens_mask) if not is_mark]
        first, last = (inner[0], inner[-1]) if inner else (0, len(probe.ids) - 1)
        self._before, self._after = probe.ids[:first], probe.ids[last + 1 :]

    def texts(
        self, texts: Sequence[str], params: Sequence[str], *, cut: int | None = None
    ) -> list[Tokens]:
        """Tokens of each text. `params` are what a refusal of each names.

        With `cut` longer texts lose their end: -1 means what the model takes.
        """
        encoded = self._backend.encode_batch(list(texts))
        return [
            self._fitted(one.ids, param, cut) for one, param in zip(encoded, params, strict=True)
        ]

    def given(self, ids: Sequence[int], param: str, *, cut: int | None = None) -> Tokens:
        """A caller's token ids with the model's marks around them, unless they are there."""
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise InvalidInput(
                    f"{token} is no token of this model: its vocabulary has {self._vocabulary} "
                    "tokens, from 0. Send texts instead of another model's token ids "
                    "(LangChain: check_embedding_ctx_length=False).",
                    param=param,
                )
        whole = list(ids)
        has_marks = whole[: len(self._before)] == self._before
        if not (has_marks and whole[len(whole) - len(self._after) :] == self._after):
            whole = [*self._before, *whole, *self._after]
        return self._fitted(whole, param, cut)

    def pairs(
        self, pairs: Sequence[tuple[str, str]], *, query_param: str
    ) -> list[tuple[Tokens, list[int]]]:
        """Tokens and kinds of each pair; where a pair is too long its second text is cut."""
        return [
            self._fitted_pair(encoded, query_param)
            for encoded in self._backend.encode_batch([(one, two) for one, two in pairs])
        ]

    def _fitted(self, ids: Tokens, param: str, cut: int | None) -> Tokens:
        if not ids:
            raise InvalidInput("The text has no tokens", param=param)
        marks = len(self._before) + len(self._after)
        limit = self._context
        if cut is not None and cut > 0:
            limit = min(limit, max(cut, marks + 1))
        over = len(ids) - limit
        if over <= 0:
            return ids
        if cut is not None:
            end = len(ids) - len(self._after)
            return ids[: end - over] + ids[end:]
        raise InvalidInput(
            f"The text is {len(ids)} tokens long; this model takes at most {self._context}.",
            code=TOO_LONG,
            param=param,
        )

    def _fitted_pair(self, encoded: object, query_param: str) -> tuple[Tokens, list[int]]:
        ids, kinds = encoded.ids, encoded.type_ids  # type: ignore[attr-defined]
        over = len(ids) - self._context
        if over <= 0:
            return ids, kinds
        second = [i for i, text in enumerate(encoded.sequence_ids) if text == 1]  # type: ignore[attr-defined]
        if over >= len(second):
            raise InvalidInput(
                f"The query leaves no room for a document: this model takes at most "
                f"{self._context} tokens for both.",
                code=TOO_LONG,
                param=query_param,
            )
        end = second[-1] + 1
        return ids[: end - over] + ids[end:], kinds[: end - over] + kinds[end:]
