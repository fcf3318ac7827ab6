"""Text before it is spoken: cleaned of what means something to an engine only, cut in pieces."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_PIECE = 300  # characters
SENTENCE_END = re.compile(r"[.!?…:;]+[\"'”’)\]]*\s+|[。！？；]+|\n+")  # noqa: RUF001 - what they are
WORD_END = re.compile(r"[,，、]\s*|\s+")  # noqa: RUF001
UNSPOKEN = frozenset(("Cc", "Co", "Cs", "Cn"))  # control, private, halves of pairs, unassigned


@dataclass(frozen=True, slots=True)
class Piece:
    """What is spoken in one go; `characters` is its share of the text as it came."""

    text: str
    characters: int


def cleaned(text: str) -> str:
    """The text without control, format and private characters (engines take some for commands)."""
    return "".join(map(_spoken, text))


def _spoken(character: str) -> str:
    if character in "\n\u200d":  # the second joins emoji
        return character
    category = unicodedata.category(character)
    return "" if category == "Cf" else " " if category in UNSPOKEN else character


def pieces(text: str) -> list[Piece]:
    """The whole text in pieces of whole sentences where they are short, of words else."""
    found = []
    start = 0
    while start < len(text):
        end = _cut(text, start)
        found.append(Piece(cleaned(text[start:end]).strip(), end - start))
        start = end
    return found


def _cut(text: str, start: int) -> int:
    """Where the piece from `start` on ends."""
    limit = start + MAX_PIECE
    if len(text) <= limit:
        return len(text)
    for pattern in (SENTENCE_END, WORD_END):
        ends = [match.end() for match in pattern.finditer(text, start, limit)]
        if ends:
            return ends[-1]
    return limit
