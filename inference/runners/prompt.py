"""From chat messages to prompt tokens, with the model's own template and nobody else's.

Messages, tools and what they hold never turn into control tokens: see `disarm`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from inference.runners.base import InvalidInput
from inference.runners.disarm import Armoury, new_mark, size
from inference.runners.media import Media
from inference.runners.tool_formats import AnswerFormat, answer_format

# Normalisation may merge characters before they become tokens, but not more than this many.
SHRINK = 4
# What a template gets to see of a message.
KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
# Names that must not come from outside: they say what is rendered and how.
OWN_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`tokens`, ready for the answer; `tail` is what the template wrote of the answer already.

    `echo` is what answers begin with, where the request wants its prompt back; `media` are the
    prompt's images.
    """

    tokens: list[int]
    tail: str = ""
    echo: str = ""
    media: Media | None = None


class PromptBuilder:
    """Thread-safe: `build` only reads the tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        form: AnswerFormat | None = None,
        *,
        takes_images: bool = False,
    ) -> None:
        """`tokenizer` must be a fast one with a chat template; `form` is its model's.

        With `takes_images`, the template sees image parts and writes a placeholder for each.
        """
        self._takes_images = takes_images
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._form = form or AnswerFormat()
        self._armoury = Armoury(tokenizer, self._form.literals)
        self._longest = max(map(len, tokenizer.backend_tokenizer.get_vocab()), default=1)
        # what the tokenizer puts before any text
        self._start = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids[:1]
        if self._start != [tokenizer.bos_token_id]:
            self._start = []
        self._defaults = {}
        if "enable_thinking" in template_text(tokenizer):
            self._defaults["enable_thinking"] = False

    def build(
        self,
        messages: list[dict[str, Any]],
        *,
        context: int,
        tools: Sequence[dict[str, Any]] = (),
        template: dict[str, Any] | None = None,
    ) -> Prompt:
        """The prompt; `template` goes to the chat template. Raises InvalidInput.

        Messages that cannot fit into `context` tokens are refused before any work is spent on them.
        """
        mark = new_mark()
        try:
            for message in _checked(messages):
                self._check_parts(message.get("content"))
            self._check_length([messages, tools], context)
            shown = [self._armoury.disarm(self._prepare(one), mark) for one in messages]
            offered = self._armoury.disarm(list(tools), mark)
            settings = self._armoury.disarm(self._settings(template), mark)
        except RecursionError as error:
            raise InvalidInput("The messages are nested too deeply", param="messages") from error
        rendered = self._render(shown, offered, settings, mark)
        tokens = self._armoury.tokens(rendered, mark, param="messages")
        if not tokens:
            raise InvalidInput("The messages make an empty prompt", param="messages")
        return Prompt(tokens, self._armoury.tail(rendered, mark))

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
        mark = new_mark()
        typed = self._armoury.disarm(text, mark)
        tokens = self._start + self._armoury.tokens(typed, mark, param="prompt")
        if not tokens:
            raise InvalidInput("A prompt must not be empty", param="prompt")
        return tokens

    def _check_length(self, given: Any, context: int) -> None:
        characters = size(given)
        if characters > context * self._longest * SHRINK:
            raise InvalidInput(
                f"The messages are {characters} characters long, which is more than this model's "
                f"context length of {context} tokens can hold.",
                code="context_length_exceeded",
                param="messages",
            )

    def _settings(self, template: dict[str, Any] | None) -> dict[str, Any]:
        given = template or {}
        if wrong := OWN_ARGUMENTS.intersection(given):
            raise InvalidInput(
                f"{', '.join(sorted(wrong))} cannot be set", param="chat_template_kwargs"
            )
        return {**self._defaults, **given}

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        settings: dict[str, Any],
        mark: str,
    ) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=True,
                **settings,
            )
        except Exception as error:  # templates are programs: any kind of error may come out
            reason = str(error).replace(mark, "")
            raise InvalidInput(
                f"The model's chat template refuses these messages: {reason}"[:300],
                param="messages",
            ) from error

    def _prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message as templates know it."""
        made = {key: message[key] for key in KEYS if message.get(key) is not None}
        made["content"] = self._content(message.get("content"))
        if calls := made.pop("tool_calls", None):
            made["tool_calls"] = [self._call(one) for one in _list(calls)]
        if "tool_call_id" in made:
            made["tool_call_id"] = self._id(made["tool_call_id"])
        if made["role"] == "assistant" and "reasoning_content" not in made:
            self._split_thinking(made)
        return made

    def _check_parts(self, content: Any) -> None:
        """Refuse what is no text before its length is judged: of an image it says nothing."""
        for part in content if isinstance(content, list) else ():
            if not (self._takes_images and isinstance(part, dict) and part.get("type") == "image"):
                _text_of([part])

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

    def _call(self, call: Any) -> dict[str, Any]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidInput("Each tool call must name a function", param="messages")
        made = {"name": function["name"], "arguments": _arguments(function.get("arguments"))}
        identity = {"id": self._id(call["id"])} if call.get("id") is not None else {}
        return {"type": "function", **identity, "function": made}

    def _id(self, identity: Any) -> Any:
        """An id in the length that the model's template insists on."""
        length = self._form.tools.id_length if self._form.tools else None
        if length is None or not isinstance(identity, str) or len(identity) == length:
            return identity
        return hashlib.sha256(identity.encode(errors="replace")).hexdigest()[:length]

    def _split_thinking(self, message: dict[str, Any]) -> None:
        """Thinking that a client left in the content, where templates look for it no more."""
        if self._form.think is None or not isinstance(message["content"], str):
            return
        opening, closing = self._form.think
        text = message["content"].lstrip()
        if text.startswith(opening) and closing in text:
            thinking, _, content = text.removeprefix(opening).partition(closing)
            message["content"] = content.lstrip("\n")
            message["reasoning_content"] = thinking.strip("\n")


def tokenizer_format(tokenizer: PreTrainedTokenizerBase, model_type: str) -> AnswerFormat:
    """What answers look like, by all that a model's folder says."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    return answer_format(
        model_type,
        template_text(tokenizer),
        getattr(tokenizer, "response_template", None),
        {token.content for token in added},
    )


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of the tokenizer's chat template, or of all of them."""
    template = tokenizer.chat_template or ""
    return template if isinstance(template, str) else "\n".join(map(str, template.values()))


def _checked(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("At least one message is needed", param="messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidInput("Each message needs a role", param="messages")
    return messages


def _list(calls: Any) -> list[Any]:
    if not isinstance(calls, list):
        raise InvalidInput("tool_calls must be a list", param="messages")
    return calls


def _arguments(arguments: Any) -> Any:
    """An object where they are one, else the text as it is: templates differ in what they do."""
    if arguments is None:
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


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
