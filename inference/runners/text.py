"""From tokens to text, one token at a time: whole characters only, stop strings held back."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenizers import Tokenizer, decoders

PENDING_LIMIT = 8
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


class Detokenizer(Protocol):
    """Turns the tokens of one answer into text; each call costs the same, however long it gets."""

    def push(self, token: int) -> str:
        """The text that became certain with this token, often one word, sometimes nothing."""


class TokenBytes:
    """The bytes of each token of a byte-level tokenizer, looked up once and remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` must have the byte-level decoder (GPT-2, Llama 3, Qwen and their kin)."""
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._alphabet = _byte_alphabet()
        for token, added in tokenizer.get_added_tokens_decoder().items():
            self._known[token] = b"" if added.special else added.content.encode()

    def __getitem__(self, token: int) -> bytes:
        """The bytes; nothing for special tokens and for ids without a token."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._bytes_of(self._tokenizer.id_to_token(token) or "")
        return known

    def _bytes_of(self, text: str) -> bytes:
        try:
            return bytes(self._alphabet[char] for char in text)
        except KeyError:
            return text.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: printable bytes are themselves, the others follow at 256."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): byte for byte in plain}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


class ByteDetokenizer:
    """For byte-level tokenizers: an incremental UTF-8 decoder over the tokens' bytes."""

    def __init__(self, table: TokenBytes) -> None:
        """`table` is shared by all answers of one tokenizer."""
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """See Detokenizer. Bytes that can never become a character turn into U+FFFD."""
        return self._decoder.decode(self._table[token])


class WindowDetokenizer:
    """For all other tokenizers: decode a short window twice and give out the difference."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` is only read."""
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._done = 0

    def push(self, token: int) -> str:
        """See Detokenizer. After PENDING_LIMIT tokens without a character, U+FFFD is let out."""
        self._window.append(token)
        before = self._tokenizer.decode(self._window[: self._done], skip_special_tokens=True)
        now = self._tokenizer.decode(self._window, skip_special_tokens=True)
        open_end = now.endswith("\ufffd") and len(self._window) - self._done < PENDING_LIMIT
        if open_end or len(now) <= len(before):
            if len(self._window) - self._done >= PENDING_LIMIT:
                self._slide()
            return ""
        self._slide()
        return now[len(before) :]

    def _slide(self) -> None:
        self._window = self._window[self._done :]
        self._done = len(self._window)


class PieceBytes:
    """The bytes of each token of any other tokenizer, as well as they are known by themselves."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` marks words with U+2581 or continued words with ##, or does neither."""
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token for token, one in added.items() if one.special}

    def __getitem__(self, token: int) -> bytes:
        """The bytes; nothing for special tokens and for ids without a token."""
        text = self._tokenizer.id_to_token(token) or ""
        if token in self._special:
            return b""
        if (byte := BYTE_PIECE.fullmatch(text)) is not None:
            return bytes([int(byte[1], 16)])
        return text.replace("\u2581", " ").removeprefix("##").encode()


class DetokenizerFactory:
    """Makes a Detokenizer per answer, of the kind that fits the tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` is the Rust object behind a transformers tokenizer."""
        self._tokenizer = tokenizer
        bytewise = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._table = TokenBytes(tokenizer) if bytewise else None
        self._bytes = self._table or PieceBytes(tokenizer)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of whole tokens, special ones by their name."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def shown(self, token: int) -> bytes:
        """A token's part of the text; nothing for special tokens."""
        return self._bytes[token]

    def named(self, token: int) -> bytes:
        """The same, with special tokens by their name."""
        return self._bytes[token] or (self._tokenizer.id_to_token(token) or "").encode()

    def __call__(self) -> Detokenizer:
        """A fresh one."""
        if self._table is not None:
            return ByteDetokenizer(self._table)
        return WindowDetokenizer(self._tokenizer)


class _StopString:
    """How much of one stop string the text so far ends with (Knuth, Morris and Pratt)."""

    __slots__ = ("_back", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._back = [0] * len(text)
        length = 0
        for index in range(1, len(text)):
            while length and text[index] != text[length]:
                length = self._back[length - 1]
            length += text[index] == text[length]
            self._back[index] = length

    def feed(self, char: str) -> bool:
        """Take one more character; True when the whole stop string has just been seen."""
        while self.matched and char != self.text[self.matched]:
            self.matched = self._back[self.matched - 1]
        self.matched += char == self.text[self.matched]
        return self.matched == len(self.text)


class StopFilter:
    """Lets text through, except what is or may become a stop string."""

    def __init__(self, stop: Iterable[str]) -> None:
        """Empty stop strings are ignored. `stopped` turns True once one has been seen."""
        self._stops = [_StopString(text) for text in stop if text]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part that is safe to give out; nothing comes after a stop string."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        held = self._held + text
        for at, char in enumerate(text, start=len(self._held) + 1):
            full = [len(stop.text) for stop in self._stops if stop.feed(char)]
            if full:
                self.stopped = True
                self._held = ""
                return held[: at - max(full)]
        keep = max(stop.matched for stop in self._stops)
        safe = len(held) - keep
        self._held = held[safe:]
        return held[:safe]

    def finish(self) -> str:
        """The text held back, when the answer ends without a stop string."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """One answer's way from tokens to text that may be shown."""

    def __init__(self, detokenizer: Detokenizer, stop: Iterable[str] = ()) -> None:
        """`stop` are the strings that end the answer and are not part of it."""
        self._detokenizer = detokenizer
        self._filter = StopFilter(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been seen."""
        return self._filter.stopped

    def push(self, token: int) -> str:
        """New text after this token; see Detokenizer and StopFilter."""
        return self._filter.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """What was held back. Bytes of an unfinished character are dropped."""
        return self._filter.finish()
