"""From what a chat request demands of its answer to the processors that see to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from inference.contracts.chat import ChatInput
from inference.runners.base import InvalidInput
from inference.runners.grammar import GrammarFactory, ReasoningThen
from inference.runners.grammar_source import GrammarSource, source_of
from inference.runners.sampling import LogitProcessor
from inference.runners.tool_formats import AnswerFormat
from inference.runners.tool_grammar import MARKS, tool_grammar

Maker = Callable[[str], list[LogitProcessor]]


class Constraints:
    """One model's grammars. Thread-safe."""

    def __init__(
        self,
        grammars: GrammarFactory,
        form: AnswerFormat,
        tokens: Mapping[str, int],
        eos_ids: Collection[int],
    ) -> None:
        """`tokens` are the tokenizer's added tokens by their text."""
        self._grammars = grammars
        self._form = form
        self._marks = {mark: tokens[mark] for mark in MARKS if mark in tokens}
        self._think = tuple(tokens.get(mark) for mark in form.think or ())
        self._eos_ids = frozenset(eos_ids)

    def maker(self, chat: ChatInput) -> Maker:
        """A callable that gives each choice its own processors, from the prompt's tail.

        Compiles here, in the caller's thread. Raises InvalidInput or Busy.
        """
        source = self._source(chat)
        if source is None:
            return lambda tail: []
        try:
            fresh = self._grammars.maker_for(source)
        except InvalidInput:
            self._blame_tool(chat)
            raise
        return lambda tail: [self._after_thinking(fresh(), tail)]

    def close(self) -> None:
        """Give back what the grammars hold."""
        self._grammars.close()

    def _source(self, chat: ChatInput) -> GrammarSource | None:
        wanted = chat.response_format
        if not chat.tools or chat.tool_choice == "none" or self._form.tools is None:
            return None if wanted is None else source_of(wanted)
        content = None
        if wanted is not None and chat.tool_choice == "auto":
            content = _content_schema(wanted)
        return self._calls(chat, chat.tool_choice, content)

    def _calls(self, chat: ChatInput, choice: str, content: Any = None) -> GrammarSource | None:
        name = self._form.tools.grammar if self._form.tools else None
        if name is None and choice == "auto" and content is None:
            return None
        return tool_grammar(
            name or "",
            chat.tools,
            choice,
            parallel=chat.parallel_tool_calls,
            marks=self._marks,
            content=content,
        )

    def _blame_tool(self, chat: ChatInput) -> None:
        """Name the first tool whose own grammar is refused, if one is."""
        if not chat.tools or chat.tool_choice == "none" or self._form.tools is None:
            return
        for index, tool in enumerate(chat.tools):
            function = tool.get("function", tool)
            if chat.tool_choice == "auto" and not function.get("strict"):
                continue
            if chat.tool_choice.startswith("=") and chat.tool_choice[1:] != function["name"]:
                continue
            alone = self._calls(chat, f"={function['name']}")
            if alone is not None:
                param = f"tools[{index}].function.parameters"
                self._grammars.maker_for(GrammarSource(alone.text, param))

    def _after_thinking(self, matcher: LogitProcessor, tail: str) -> LogitProcessor:
        """The grammar is that of what follows the model's thoughts."""
        if self._form.think is None or None in self._think:
            return matcher
        begin, end = self._form.think
        opened, closed = tail.rfind(begin), tail.rfind(end)
        if closed > opened:
            return matcher
        first, last = self._think
        return ReasoningThen(matcher, [last], self._eos_ids, start_id=first if opened < 0 else None)


def _content_schema(wanted: dict[str, Any]) -> Any:
    """The JSON schema of an answer without calls."""
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    if wanted.get("type") == "json_schema":
        return wanted.get("schema", {})
    raise InvalidInput("tools cannot be combined with this structured output", param="tools")
