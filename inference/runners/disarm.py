"""Text that others wrote stays text: no literal of a control token in it becomes that token.

Every literal in a message or a tool is broken in two by a secret mark before the chat template
runs; the rendered prompt is then cut at the marks and each piece tokenised alone. Literals are
those of special tokens and of all added tokens that look like marks: `<|im_end|>`, `<tool_call>`,
`</think>`, `[INST]`. Text without such a literal takes the plain way and pays nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from inference.runners.base import InvalidInput

MARK_SHAPE = re.compile("[<\\[\uff5c].*\\w.*[>\\]\uff5c]", re.DOTALL)


class Armoury:
    """The literals of one tokenizer. Thread-safe: only reads the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, marks: Collection[str] = ()) -> None:
        """`tokenizer` must be a fast one; `marks` are broken even where they are no tokens."""
        self._backend = tokenizer.backend_tokenizer
        added = self._backend.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        ids = special | {
            index for index, token in added.items() if MARK_SHAPE.fullmatch(token.content)
        }
        texts = _texts(tokenizer, ids)
        self._literals = _pattern(texts)
        self._breakable = _pattern(texts | set(marks))
        # what user text cannot hold unbroken, and templates write between turns
        self._special = _pattern(_texts(tokenizer, special))
        # any unknown character becomes this one, so it proves nothing
        self._ids = ids - {tokenizer.unk_token_id}

    def tokens(self, rendered: str, mark: str, *, param: str) -> list[int]:
        """The tokens of a rendered prompt, marks left out. Raises InvalidInput."""
        tokens: list[int] = []
        expected = 0
        for piece in rendered.split(mark):
            tokens += self._backend.encode(piece, add_special_tokens=False).ids
            expected += len(self._literals.findall(piece))
        # a second lock: normalisation may turn look-alikes of a literal into the token itself
        if sum(token in self._ids for token in tokens) > expected:
            raise InvalidInput(f"The {param} must not contain control tokens", param=param)
        return tokens

    def tail(self, rendered: str, mark: str) -> str:
        """What the template wrote last, after all text of others and the last special token."""
        piece = rendered[rendered.rfind(mark) + len(mark) :] if mark in rendered else rendered
        end = 0
        for found in self._special.finditer(piece):
            end = found.end()
        return piece[end:]

    def disarm(self, value: Any, mark: str) -> Any:
        """The same value, with every literal in its strings and keys broken in two."""
        if isinstance(value, str):
            return self._break(value, mark)
        if isinstance(value, dict):
            return {self.disarm(key, mark): self.disarm(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.disarm(item, mark) for item in value]
        return value

    def _break(self, text: str, mark: str) -> str:
        found = self._breakable.search(text)
        if found is None:
            return text
        parts = []
        at = 0
        while found is not None:
            cut = found.start() + 1
            parts.append(text[at:cut])
            at = cut
            found = self._breakable.search(text, cut)
        return mark.join([*parts, text[at:]])


def new_mark() -> str:
    """A text that nobody can have written."""
    return f"Zq{secrets.token_hex(12)}qZ"


def size(value: Any) -> int:
    """Characters in all strings of a value, keys included."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(size(key) + size(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(map(size, value))
    return 0


def _texts(tokenizer: PreTrainedTokenizerBase, ids: set[int]) -> set[str]:
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    known = {added[index].content for index in ids if index in added}
    return known | set(tokenizer.all_special_tokens)


def _pattern(texts: set[str]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)
