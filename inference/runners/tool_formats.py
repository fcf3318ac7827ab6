"""The table of model families: how each writes tool calls and thinking.

A family is data: transformers' declarative `response_template` for it, the literals that open and
close a call, and the name of its grammar. Which family a folder belongs to is told by the response
template its tokenizer saved, if that reads the family's own example rightly; otherwise by the
config's model_type together with what the chat template writes, and last by the chat template
alone (fine-tuned models often speak another family's format).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from transformers.utils.chat_parsing import parse_response

from inference.runners.tool_calls import Reader, read_json, read_markup

Marks = tuple[str, str]

THINK: Marks = ("<think>", "</think>")
QWEN = frozenset(
    {
        "qwen2",
        "qwen2_moe",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_vl",
        "qwen3_vl_text",
        "qwen3_vl_moe",
        "qwen3_vl_moe_text",
    }
)
QWEN_3_5 = frozenset({"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"})
EXAMPLE = {"name": "look_up", "arguments": {"city": "Paris"}}


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How one family of models writes calls.

    `call` are the marks around a call; without an opening mark (llama3) an answer that begins with
    `{` is one, and without a closing mark a call ends with the answer. `grammar` names the format
    for constrained decoding. `signs` are texts that the chat template of such a model contains.
    `response_template` is in transformers' format; `example` is one call as the model writes it.
    """

    name: str
    call: Marks
    read: Reader
    example: str
    signs: tuple[str, ...]
    types: frozenset[str] = frozenset()
    grammar: str | None = None
    id_length: int | None = None
    response_template: dict[str, Any] = field(default_factory=dict)

    def suits(self, chat_template: str) -> bool:
        """Whether the chat template writes calls as this family does."""
        return all(sign in chat_template for sign in self.signs)


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What to look for in the answers of one model; None where it has no such thing."""

    tools: ToolFormat | None = None
    think: Marks | None = None

    @property
    def literals(self) -> tuple[str, ...]:
        """All marks, for the detokeniser to show and for prompts to disarm."""
        calls = self.tools.call if self.tools else ()
        return tuple(filter(None, (*calls, *(self.think or ()))))


def _template(calls: dict[str, Any], anchor: str) -> dict[str, Any]:
    thinking = {"open": THINK[0], "close": THINK[1], "content": "text", "repeats": True, "join": ""}
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": anchor,
        "fields": {
            "reasoning_content": thinking,
            "tool_calls": {"repeats": True, **calls},
            "content": {"content": "text", "repeats": True, "join": ""},
        },
    }


_FUNCTION = {"type": "function", "function": "{content}"}
_NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}

HERMES = ToolFormat(
    name="hermes",
    grammar="hermes",
    call=("<tool_call>", "</tool_call>"),
    read=read_json,
    example='<tool_call>\n{"name": "look_up", "arguments": {"city": "Paris"}}\n</tool_call>',
    signs=("<tool_call>",),
    types=QWEN,
    response_template=_template(
        {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "content": "json",
            "transform": _FUNCTION,
        },
        "<|im_start|>assistant\n",
    ),
)
QWEN3_5 = ToolFormat(
    name="qwen3_5",
    grammar="qwen3_5",
    call=("<tool_call>", "</tool_call>"),
    read=read_markup,
    example="<tool_call>\n<function=look_up>\n<parameter=city>\nParis\n</parameter>\n"
    "</function>\n</tool_call>",
    signs=("<tool_call>", "<function="),
    types=QWEN | QWEN_3_5,
    response_template=_template(
        {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"
            },
            "transform": _NAMED,
        },
        "<|im_start|>assistant\n",
    ),
)
MISTRAL = ToolFormat(
    name="mistral",
    call=("[TOOL_CALLS]", ""),
    read=read_json,
    example='[TOOL_CALLS] [{"name": "look_up", "arguments": {"city": "Paris"}}]',
    signs=("[TOOL_CALLS]", "[INST]"),
    types=frozenset({"mistral", "mixtral", "mistral3", "ministral"}),
    id_length=9,
    response_template=_template(
        {
            "open": "[TOOL_CALLS]",
            "content": "json",
            "transform_each": True,
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{arguments}"},
            },
        },
        "[/INST]",
    ),
)
LLAMA3 = ToolFormat(
    name="llama3",
    grammar="llama3",
    call=("", ""),
    read=read_json,
    example='{"name": "look_up", "parameters": {"city": "Paris"}}',
    signs=("<|start_header_id|>", "ipython", "parameters"),
    types=frozenset({"llama", "mllama", "mllama_text_model", "llama4", "llama4_text"}),
    response_template=_template(
        {
            "open_pattern": r'(?:<\|python_tag\|>)?(?=\{\s*"name")',
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{content.name}", "arguments": "{content.parameters}"},
            },
        },
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
)
# the more telling signs first
TOOL_FORMATS = (QWEN3_5, HERMES, MISTRAL, LLAMA3)


def answer_format(
    model_type: str, chat_template: str, saved: Any = None, tokens: Collection[str] = ()
) -> AnswerFormat:
    """What the answers of a model look like.

    `saved` is the tokenizer's own response template, if any; a broken or strange one counts for
    nothing. `tokens` are the tokenizer's added tokens.
    """
    thinks = any(mark in chat_template or mark in tokens for mark in THINK)
    return AnswerFormat(_tool_format(model_type, chat_template, saved), THINK if thinks else None)


def _tool_format(model_type: str, chat_template: str, saved: Any) -> ToolFormat | None:
    if "tools" not in chat_template:
        return None
    if saved is not None:
        for one in TOOL_FORMATS:
            if reads_example(saved, one):
                return one
    suited = [one for one in TOOL_FORMATS if one.suits(chat_template)]
    typed = [one for one in suited if model_type in one.types]
    return next(iter(typed or suited), None)


def reads_example(saved: Any, form: ToolFormat) -> bool:
    """Whether a saved response template understands the family's example call."""
    try:
        message = parse_response(form.example, saved, prefix="")
        calls = message.get("tool_calls")
        calls = calls[0] if isinstance(calls[0], list) else calls
        return len(calls) == 1 and calls[0]["function"] == EXAMPLE
    except Exception:  # noqa: BLE001 - whatever a strange template makes of it means no
        return False
