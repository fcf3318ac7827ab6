"""The answer of a model that may think or call tools, from tokens to typed pieces."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer

from inference.contracts.chat import ChatInput
from inference.runners.answers import AnswerStream, Piece, PlainAnswer
from inference.runners.base import ARGUMENTS, CONTENT, REASONING
from inference.runners.regions import CALL, Mark, PlainRegions, Regions, regions_for
from inference.runners.text import Detokenizer, DetokenizerFactory, StopFilter, TextStream
from inference.runners.tool_calls import JsonScan, Malformed, Schemas, read_json, schemas_of
from inference.runners.tool_formats import AnswerFormat, ToolFormat

HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
LONGEST_HEAD = 512


class _Blanks:
    """Text without blanks at its ends; those in the middle come with what follows them."""

    def __init__(self, *, leading: bool, trailing: bool) -> None:
        """`leading` and `trailing` say which ends are trimmed."""
        self.leading = leading
        self._trailing = trailing
        self._held: list[str] = []

    def lead(self, text: str) -> str:
        """`text`, or what is left of it when nothing but blanks came before."""
        if self.leading and (text := text.lstrip()):
            self.leading = False
        return text

    def push(self, text: str) -> str:
        """The text up to its last character that is not a blank."""
        if not self._trailing:
            return text
        body = text.rstrip()
        if not body:
            self._held.append(text)
            return ""
        shown = "".join((*self._drop(), body))
        self._held.append(text[len(body) :])
        return shown

    def flush(self) -> str:
        """The blanks held back."""
        return "".join(self._drop())

    def drop(self) -> None:
        """Forget the blanks held back, and those to come."""
        self._drop()
        self.leading = True

    def _drop(self) -> list[str]:
        held, self._held = self._held, []
        return held


class _Content:
    """Content: the stop strings apply to it, and to nothing else."""

    def __init__(self, stop: Iterable[str], blanks: _Blanks) -> None:
        self._stop = tuple(stop)
        self._filter = StopFilter(self._stop)
        self._blanks = blanks

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._filter.stopped

    def push(self, text: str) -> str:
        """The part that may be shown."""
        shown = self._blanks.push(self._filter.push(self._blanks.lead(text)))
        return shown + self._blanks.flush() if self.stopped else shown

    def pause(self) -> str:
        """Something else begins: what the stop strings held back is certain now."""
        held = self._filter.finish()
        self._filter = StopFilter(self._stop)
        return self._blanks.push(held)

    def part(self) -> None:
        """Something else has come: the blanks around it belong to nobody."""
        self._blanks.drop()

    def finish(self) -> str:
        """All that is left."""
        return self._blanks.push(self._filter.finish()) + self._blanks.flush()


class _ArgumentStream:
    """The arguments of a call that is known to become valid JSON, passed on as they come."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._head = ""
        self._scan = JsonScan()
        self._over = False

    def push(self, text: str) -> str:
        """The part of `text` that is arguments; `name` is known from the first such part on."""
        if self._over:
            return ""
        if self.name is None:
            self._head += text
            found = HEAD.match(self._head)
            if found is None:
                self._over = len(self._head) > LONGEST_HEAD
                return ""
            self.name = json.loads(found[1])
            text = self._head[found.end() :]
        end = self._scan.feed(text)
        self._over = end >= 0
        return text[:end] if self._over else text


class ParsedAnswer:
    """An AnswerStream for models with thinking or tool calls; malformed calls become content."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        regions: Regions,
        *,
        form: ToolFormat | None = None,
        schemas: Schemas | None = None,
        stop: Iterable[str] = (),
        literals: Mapping[int, str] | None = None,
        leading: bool = False,
        single: bool = False,
        sure: bool = False,
    ) -> None:
        """`form` is None where no calls are looked for.

        `literals` are the texts of special tokens that are marks. `leading` blanks of the content
        are dropped. `single` ends the answer with its first call. `sure` says that a grammar makes
        the calls valid, so that their arguments need not wait for the end.
        """
        self.reasoning_tokens = 0
        self._detokenizer = detokenizer
        self._regions = regions
        self._format = form
        self._schemas = schemas or {}
        self._literals = literals or {}
        self._single = single
        self._sure = sure and form is not None and form.read is read_json
        self._content = _Content(stop, _Blanks(leading=leading, trailing=form is not None))
        self._thoughts = _Blanks(leading=True, trailing=True)
        self._body: list[str] = []
        self._scan = JsonScan()
        self._arguments: _ArgumentStream | None = None
        self._calls = 0
        self._done = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string or the only call wanted has come."""
        return self._done or self._content.stopped

    def push(self, token: int) -> Sequence[Piece]:
        """See AnswerStream."""
        text = self._literals.get(token) or self._detokenizer.push(token)
        thought = self._regions.kind == REASONING
        pieces = self._take(text)
        if thought and self._regions.kind == REASONING:
            self.reasoning_tokens += 1
        return pieces

    def finish(self) -> Sequence[Piece]:
        """See AnswerStream."""
        if self.stopped:
            return ()
        pieces: list[Piece] = []
        kind, held = self._regions.kind, self._regions.finish()
        if held:
            self._text(Mark("text", kind, held), pieces)
        if kind == CALL:
            self._conclude("", pieces)
        if not self.stopped:
            _add(pieces, self._content.finish())
        return pieces

    def reason(self, reason: str) -> str:
        """See AnswerStream."""
        return "tool_calls" if self._calls and reason == "stop" else reason

    def _take(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for mark in self._regions.feed(text):
            if mark.what == "text":
                self._text(mark, pieces)
            elif mark.what == "open":
                self._open(mark, pieces)
            elif mark.kind == CALL:
                self._close(mark, pieces)
            if self.stopped:
                break
        return pieces

    def _text(self, mark: Mark, pieces: list[Piece]) -> None:
        if mark.kind == CONTENT:
            _add(pieces, self._content.push(mark.text))
        elif mark.kind == REASONING:
            _add(pieces, self._thoughts.push(self._thoughts.lead(mark.text)), REASONING)
        else:
            self._call_text(mark.text, pieces)

    def _call_text(self, text: str, pieces: list[Piece]) -> None:
        self._body.append(text)
        self._scan.feed(text)
        if self._arguments is None:
            return
        opened = self._arguments.name is not None
        passed = self._arguments.push(text)
        if passed:
            name = None if opened else self._arguments.name
            pieces.append(self._piece(passed, name))

    def _piece(self, arguments: str, name: str | None) -> Piece:
        opens = None if name is None else (f"call_{secrets.token_hex(12)}", name)
        return Piece(arguments, ARGUMENTS, self._calls, opens)

    def _open(self, mark: Mark, pieces: list[Piece]) -> None:
        _add(pieces, self._content.pause())
        if mark.kind == REASONING:
            self._content.part()
            self._thoughts.drop()
            return
        self._body = []
        self._scan = JsonScan()
        self._arguments = _ArgumentStream() if self._sure else None

    def _close(self, mark: Mark, pieces: list[Piece]) -> None:
        inside = self._scan.in_string and not self._scan.broken
        if inside and self._format is not None and self._format.read is read_json:
            self._regions.resume()
            self._call_text(mark.text, pieces)
        else:
            self._conclude(mark.text, pieces)

    def _conclude(self, closing: str, pieces: list[Piece]) -> None:
        """The call is over, by its mark or with the answer."""
        if self._arguments is not None and self._arguments.name is not None:
            self._called()
            return
        text = "".join(self._body)
        try:
            calls = self._format.read(text, self._schemas) if self._format else ()
        except Malformed:
            self._regions.refuse()
            opening = self._format.call[0] if self._format else ""
            _add(pieces, self._content.push(f"{opening}{text}{closing}"))
            return
        for call in calls:
            pieces.append(self._piece(call.arguments, call.name))
            self._called()
            if self._done:
                break

    def _called(self) -> None:
        self._calls += 1
        self._done = self._single
        self._content.part()


class AnswerMaker:
    """Makes the answer stream for each choice of a request to one model. Thread-safe."""

    def __init__(
        self, tokenizer: Tokenizer, detokenizers: DetokenizerFactory, form: AnswerFormat
    ) -> None:
        """`form` says what the model's answers look like."""
        self.form = form
        self._detokenizers = detokenizers
        self._literals = {
            token: added.content
            for token, added in tokenizer.get_added_tokens_decoder().items()
            if added.special and added.content in form.literals
        }

    def __call__(self, chat: ChatInput, tail: str) -> AnswerStream:
        """A fresh one; `tail` is what the prompt has already written of the answer."""
        wants_calls = bool(chat.tools) and chat.tool_choice != "none"
        regions = regions_for(self.form, tail, calls=wants_calls)
        if chat.prompts or isinstance(regions, PlainRegions):
            return PlainAnswer(TextStream(self._detokenizers(), chat.stop))
        tools = self.form.tools if wants_calls else None
        constrained = chat.tool_choice == "required" or chat.tool_choice.startswith("=")
        return ParsedAnswer(
            self._detokenizers(),
            regions,
            form=tools,
            schemas=schemas_of(chat.tools) if tools else None,
            stop=chat.stop,
            literals=self._literals,
            leading=self.form.think is not None,
            single=not chat.parallel_tool_calls,
            sure=constrained and tools is not None and tools.grammar is not None,
        )


def _add(pieces: list[Piece], text: str, kind: str = CONTENT) -> None:
    if text:
        pieces.append(Piece(text, kind))
