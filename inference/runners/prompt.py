"""From chat messages to prompt tokens, with the model's own template and nobody else's.

Text inside messages must never turn into a control token ("<|im_end|>" typed by a user would end
the turn and forge the next one). Every literal of a control token in a message is broken in two by
a secret mark before the template runs; the rendered prompt is then cut at the marks and each piece
tokenised alone. Messages without such a literal take the plain way and pay nothing.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from inference.runners.base import InvalidInput

# Normalisation may merge characters before they become tokens, but not more than this many.
SHRINK = 4
CONTROL_SHAPE = re.compile("<\\|.*\\|>|<\uff5c.*\uff5c>", re.DOTALL)


class PromptBuilder:
    """Thread-safe: `build` only reads the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, takes_images: bool = False) -> None:
        """`tokenizer` must be a fast one with a chat template.

        With `takes_images`, the template sees image parts and writes a placeholder for each.
        """
        self._takes_images = takes_images
        self._tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()
        added = self._backend.get_added_tokens_decoder()
        self._control_ids = {
            index
            for index, token in added.items()
            if token.special or CONTROL_SHAPE.fullmatch(token.content)
        } | set(tokenizer.all_special_ids)
        texts = {added[index].content for index in self._control_ids if index in added}
        texts |= set(tokenizer.all_special_tokens)
        # any unknown character becomes this one, so it proves nothing
        self._control_ids.discard(tokenizer.unk_token_id)
        longest_first = sorted(filter(None, texts), key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self._control = re.compile(pattern, re.IGNORECASE)
        # what the tokenizer puts before any text
        self._start = self._backend.encode("", add_special_tokens=True).ids[:1]
        if self._start != [tokenizer.bos_token_id]:
            self._start = []
        self._longest = max(map(len, self._backend.get_vocab()), default=1)

    def build(self, messages: list[dict[str, Any]], *, context: int) -> list[int]:
        """The prompt's tokens, ready for the answer. Raises InvalidInput.

        Messages that cannot fit into `context` tokens are refused before any work is spent on them.
        """
        self._check_length(messages, context)
        mark = f"Zq{secrets.token_hex(12)}qZ"
        try:
            marked = [self._prepare(message, mark) for message in _checked(messages)]
        except RecursionError as error:
            raise InvalidInput("The messages are nested too deeply", param="messages") from error
        rendered = self._render(marked)
        tokens: list[int] = []
        expected = 0
        for piece in rendered.split(mark):
            tokens += self._backend.encode(piece, add_special_tokens=False).ids
            expected += len(self._control.findall(piece))
        if not tokens:
            raise InvalidInput("The messages make an empty prompt", param="messages")
        # a second lock: normalisation may turn look-alikes of a literal into the token itself
        if sum(token in self._control_ids for token in tokens) > expected:
            raise InvalidInput("The messages contain control tokens", param="messages")
        return tokens

    def encode(self, text: str, *, context: int) -> list[int]:
        """The tokens of a prompt that goes to the model as it is. Raises InvalidInput.

        It starts with the tokenizer's BOS token where it has one; typed control tokens stay text.
        """
        if len(text) > context * self._longest * SHRINK:
            raise InvalidInput(
                f"The prompt is {len(text)} characters long, which is more than this model's "
                f"context length of {context} tokens can hold.",
                code="context_length_exceeded",
                param="prompt",
            )
        mark = f"Zq{secrets.token_hex(12)}qZ"
        tokens: list[int] = []
        for piece in self._break_literals(text, mark).split(mark):
            tokens += self._backend.encode(piece, add_special_tokens=False).ids
        if any(token in self._control_ids for token in tokens):
            raise InvalidInput("The prompt contains control tokens", param="prompt")
        tokens = self._start + tokens
        if not tokens:
            raise InvalidInput("A prompt must not be empty", param="prompt")
        return tokens

    def _check_length(self, messages: list[dict[str, Any]], context: int) -> None:
        contents = [self._content(message.get("content")) for message in _checked(messages)]
        characters = sum(map(_length, contents))
        if characters > context * self._longest * SHRINK:
            raise InvalidInput(
                f"The messages are {characters} characters long, which is more than this model's "
                f"context length of {context} tokens can hold.",
                code="context_length_exceeded",
                param="messages",
            )

    def _render(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates are programs: any kind of error may come out
            raise InvalidInput(
                f"The model's chat template refuses these messages: {error}"[:300],
                param="messages",
            ) from error

    def _prepare(self, message: dict[str, Any], mark: str) -> dict[str, Any]:
        content = self._content(message.get("content"))
        return self._disarm({**message, "content": content}, mark)

    def _content(self, content: Any) -> str | list[dict[str, Any]]:
        """Content as templates know it: one text or, with images, parts."""
        if not self._takes_images or not isinstance(content, list):
            return _text_of(content)
        shown = [isinstance(part, dict) and part.get("type") == "image" for part in content]
        if not any(shown):
            return _text_of(content)
        return [
            {"type": "image"} if image else {"type": "text", "text": _text_of([part])}
            for part, image in zip(content, shown, strict=True)
        ]

    def _disarm(self, value: Any, mark: str) -> Any:
        """The same value, with every literal of a control token in its strings broken in two."""
        if isinstance(value, str):
            return self._break_literals(value, mark)
        if isinstance(value, dict):
            return {
                self._disarm(key, mark): self._disarm(item, mark) for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._disarm(item, mark) for item in value]
        return value

    def _break_literals(self, text: str, mark: str) -> str:
        found = self._control.search(text)
        if found is None:
            return text
        parts = []
        at = 0
        while found is not None:
            cut = found.start() + 1
            parts.append(text[at:cut])
            at = cut
            found = self._control.search(text, cut)
        return mark.join([*parts, text[at:]])


def _checked(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("At least one message is needed", param="messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidInput("Each message needs a role", param="messages")
    return messages


def _length(content: str | list[dict[str, Any]]) -> int:
    if isinstance(content, str):
        return len(content)
    return sum(len(part.get("text", "")) for part in content)


def _text_of(content: Any) -> str:
    """Content as one string: a string, a list of text parts, or nothing."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidInput("Message content must be a string or a list", param="messages")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise InvalidInput("This model takes text content only", param="messages")
        texts.append(text)
    return "".join(texts)
