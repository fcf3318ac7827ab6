"""What the echo engine says when more is asked for than plain words (pure).

A script is a list of steps; each step holds the Deltas that come out together, one token for every
choice that still speaks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from inference.contracts.chat import ChatInput
from inference.runners.base import ARGUMENTS, CONTENT, REASONING, Delta

CALL = re.compile(r"!call\s+([\w.-]{1,64})\s*(?=(\{.*)?)", re.DOTALL)
THOUGHTS = ("Let ", "me ", "think ", "first. ")


@dataclass(frozen=True, slots=True)
class Step:
    """One token of one choice, or the text that stands before the first."""

    text: str
    kind: str = CONTENT
    call: int = 0
    opens: tuple[str, str] | None = None
    logprobs: tuple[dict[str, Any], ...] = ()
    reason: str | None = None
    is_token: bool = True


def needs_script(chat: ChatInput, asked: str) -> bool:
    """Whether this request asks for more than plain words."""
    wishes = chat.n > 1 or chat.top_logprobs is not None or chat.tools or chat.prompts
    return bool(wishes) or "!think" in asked


def token_logprobs(token: str, position: int, top: int) -> dict[str, Any]:
    """OpenAI's object for a token, made up from its position alone."""

    def entry(text: str, rank: int) -> dict[str, Any]:
        logprob = -0.1 * (position % 5) - rank
        return {"token": text, "logprob": round(logprob, 3), "bytes": list(text.encode())}

    likely = [entry(token if rank == 0 else f"x{rank} ", rank) for rank in range(top)]
    return {**entry(token, 0), "top_logprobs": likely}


def wanted_calls(chat: ChatInput, asked: str) -> list[tuple[str, str]]:
    """(name, arguments) of the calls that the user's text or the tool choice asks for."""
    names = [tool["function"]["name"] for tool in chat.tools]
    if not names or chat.tool_choice == "none" or chat.messages[-1]["role"] != "user":
        return []
    found = [
        (match[1], _arguments(match[2] or ""))
        for match in CALL.finditer(asked)
        if match[1] in names
    ]
    if chat.tool_choice.startswith("="):
        found = [call for call in found if call[0] == chat.tool_choice[1:]]
    if not found and chat.tool_choice != "auto":
        found = [(chat.tool_choice[1:] if chat.tool_choice[0] == "=" else names[0], "{}")]
    return found if chat.parallel_tool_calls else found[:1]


def _arguments(text: str) -> str:
    """The JSON object that the text begins with."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return "{}"
    return json.dumps(value, ensure_ascii=False)


def choice_steps(
    chat: ChatInput, asked: str, words: list[str], reason: str, *, choice: int
) -> list[Step]:
    """Everything one choice says. The last step ends it."""
    steps = [Step(text, REASONING) for text in THOUGHTS] if "!think" in asked else []
    calls = wanted_calls(chat, asked)
    for number, (name, arguments) in enumerate(calls):
        opens = f"call_{choice}_{number}_{len(chat.messages)}", name
        steps.append(Step("", ARGUMENTS, number, opens))
        half = max(1, len(arguments) // 2)
        steps.append(Step(arguments[:half], ARGUMENTS, number))
        if arguments[half:]:
            steps.append(Step(arguments[half:], ARGUMENTS, number))
    if calls:
        reason = "tool_calls"
    else:
        top = chat.top_logprobs
        for position, word in enumerate(words):
            known = () if top is None else (token_logprobs(word, position, top),)
            steps.append(Step(word, logprobs=known))
    if chat.max_tokens is not None and chat.max_tokens < len(steps):
        steps, reason = steps[: chat.max_tokens], "length"
    if not steps:
        return [Step("", reason=reason, is_token=False)]
    return [*steps[:-1], replace(steps[-1], reason=reason)]


def interleaved(request_id: str, choices: list[list[Step]]) -> list[list[Delta]]:
    """The script of all choices, each speaking until it ends; tokens are counted over all."""
    script: list[list[Delta]] = []
    said = 0
    for index in range(max(map(len, choices))):
        deltas = []
        for choice, steps in enumerate(choices):
            if index >= len(steps):
                continue
            step = steps[index]
            said += step.is_token
            # a single choice leaves its reason to Ended, as the contract lets it
            reason = step.reason if len(choices) > 1 else None
            deltas.append(
                Delta(
                    request_id,
                    step.text,
                    said,
                    choice=choice,
                    kind=step.kind,
                    call=step.call,
                    opens=step.opens,
                    logprobs=step.logprobs,
                    reason=reason,
                )
            )
        script.append(deltas)
    return script
