"""Answers as OpenAI's server-sent events: one `data:` line per chunk, `[DONE]` at the end (pure)."""

from __future__ import annotations

import json
from typing import Any

from inference.api.interactive import Call
from inference.contracts import chat, completion
from inference.contracts.answers import ARGUMENTS, CONTENT, REASONING, Part
from inference.hub import Finished, Piece, Started, Text

DONE = b"data: [DONE]\n\n"
GAP = "\0"  # no body may hold it, so nothing else in a chunk is encoded like it
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def sse(body: Any) -> bytes:
    """One event."""
    return b"data: " + encode(body).encode() + b"\n\n"


class ChoiceStream:
    """What the streams of both surfaces share; `make` and `finish` differ."""

    object: str

    def __init__(self, call: Call, *, answer_id: str, count: int) -> None:
        """`count` is the number of choices."""
        self.count = count
        self._open = set(range(count))
        self._wants_usage = bool((call.body.get("stream_options") or {}).get("include_usage"))
        self._frame = {
            "id": answer_id,
            "object": self.object,
            "created": int(call.created),
            "model": call.requested_model,
        }
        self._around: dict[tuple[int, str], tuple[bytes, bytes]] = {}

    def opening(self) -> bytes:
        """What comes first."""
        return b""

    def chunks(self, piece: Piece) -> bytes:
        """The events of one piece."""
        match piece:
            case Text(text):
                return self.text(text)
            case Part():
                return self.part(piece)
            case Started():
                return b""
            case Finished():
                left = [self.finish(index, piece.reason) for index in sorted(self._open)]
                return b"".join(left) + self._usage(piece.units) + DONE

    def text(self, text: str, choice: int = 0, kind: str = CONTENT) -> bytes:
        """A piece of text: all chunks alike but for it, so the rest is encoded once."""
        key = choice, kind
        if key not in self._around:
            before, _, after = self.make(Part(GAP, choice, kind)).partition(encode(GAP).encode())
            self._around[key] = before, after
        before, after = self._around[key]
        return before + encode(text).encode() + after

    def part(self, part: Part) -> bytes:
        """Whatever is more than plain content of the first choice."""
        if part.logprobs or part.kind == ARGUMENTS:
            out = self.make(part)
        else:
            out = self.text(part.text, part.choice, part.kind) if part.text else b""
        if part.reason is not None and part.choice in self._open:
            out += self.finish(part.choice, part.reason)
        return out

    def make(self, part: Part) -> bytes:
        """The events of a part, its end apart."""
        raise NotImplementedError

    def finish(self, choice: int, reason: str) -> bytes:
        """The last event of a choice."""
        raise NotImplementedError

    def event(self, choice: dict[str, Any]) -> bytes:
        """A chunk with one choice."""
        usage = {"usage": None} if self._wants_usage else {}
        return sse({**self._frame, "choices": [choice], **usage})

    def _usage(self, units: dict[str, int]) -> bytes:
        if not self._wants_usage:
            return b""
        return sse({**self._frame, "choices": [], "usage": chat.usage_body(units)})


class ChatStream(ChoiceStream):
    """chat.completion.chunk events."""

    object = "chat.completion.chunk"

    def __init__(self, call: Call) -> None:
        """See ChoiceStream."""
        answer_id = chat.completion_id(call.job_id)
        super().__init__(call, answer_id=answer_id, count=call.body.get("n") or 1)

    def opening(self) -> bytes:
        """Who speaks, for every choice: clients want them to appear in order."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._delta(index, delta) for index in range(self.count))

    def make(self, part: Part) -> bytes:
        """See ChoiceStream. A tool call is opened without arguments, which follow."""
        if part.kind == ARGUMENTS:
            return self._call(part)
        key = "reasoning_content" if part.kind == REASONING else "content"
        return self._delta(part.choice, {key: part.text}, part.logprobs)

    def finish(self, choice: int, reason: str) -> bytes:
        """See ChoiceStream."""
        self._open.discard(choice)
        return self._delta(choice, {}, reason=reason)

    def _call(self, part: Part) -> bytes:
        deltas: list[dict[str, Any]] = []
        if part.opens is not None:
            call_id, name = part.opens
            function = {"name": name, "arguments": ""}
            deltas.append({"id": call_id, "type": "function", "function": function})
        if part.text or not deltas:
            deltas.append({"function": {"arguments": part.text}})
        out = b""
        for number, delta in enumerate(deltas):
            logprobs = part.logprobs if number == len(deltas) - 1 else ()
            calls = {"tool_calls": [{"index": part.call, **delta}]}
            out += self._delta(part.choice, calls, logprobs)
        return out

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: tuple[dict[str, Any], ...] = (),
        reason: str | None = None,
    ) -> bytes:
        shown = {"content": list(logprobs), "refusal": None} if logprobs else None
        return self.event(
            {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}
        )


class CompletionStream(ChoiceStream):
    """text_completion events."""

    object = "text_completion"

    def __init__(self, call: Call) -> None:
        """See ChoiceStream."""
        count = (call.body.get("n") or 1) * len(call.body["prompt"])
        super().__init__(call, answer_id=completion.completion_id(call.job_id), count=count)
        self._at = [0] * count
        self._spoken: set[int] = set()

    def text(self, text: str, choice: int = 0, kind: str = CONTENT) -> bytes:
        """See ChoiceStream. Text before the first log probability is an echoed prompt."""
        if choice not in self._spoken:
            self._at[choice] += len(text)
        return super().text(text, choice, kind)

    def make(self, part: Part) -> bytes:
        """See ChoiceStream."""
        shown = completion.logprobs_body(list(part.logprobs), self._at[part.choice])
        if part.logprobs:
            self._spoken.add(part.choice)
        self._at[part.choice] += sum(len(token["token"]) for token in part.logprobs)
        return self._text(part.choice, part.text, shown)

    def finish(self, choice: int, reason: str) -> bytes:
        """See ChoiceStream."""
        self._open.discard(choice)
        return self._text(choice, "", None, reason)

    def _text(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None = None
    ) -> bytes:
        return self.event(
            {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        )
