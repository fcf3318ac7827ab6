"""What an upstream Runner talks to: an address, a key, requests, and what can go wrong with them.

The address is the operator's, so it may be private; redirects are never followed, proxies and
credentials of the environment never used, cookies never kept. Nothing that a caller is told names
the upstream, and no exception's text is logged: it might hold the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from inference.runners.base import InvalidInput, LoadError, RunnerError

KIB, MIB = 1 << 10, 1 << 20
CONNECT_SECONDS = 5.0
SEND_SECONDS = 30.0
READ_SECONDS = 120.0
PROBE_SECONDS = 5.0
KEEP_SECONDS = 4.0  # many servers close idle connections after five
MOST_EVENT = 2 * MIB
MOST_ANSWER = 64 * MIB
MOST_LISTED = 4 * MIB
MOST_ERROR = 64 * KIB
MOST_KEY = 4 * KIB
MOST_MESSAGE = 500
RETRY_SECONDS = 5
SECRETS = {"key", "api_key", "token", "secret", "password", "authorization"}
# Codes of a refusal that keep their meaning here; any other becomes the first.
REFUSALS = (
    "invalid_value",
    "invalid_request",
    "missing_required_parameter",
    "context_length_exceeded",
    "invalid_image",
    "unsafe_url",
)


class UpstreamError(RunnerError):
    """Ends a request; the text is for its caller. `is_doubtful`: look whether the upstream is well."""

    message = "The model's server failed on this request"
    retryable = True
    is_doubtful = True
    retry_after: int | None = None

    def __init__(self) -> None:
        super().__init__(self.message)


class Unreachable(UpstreamError):
    """Nobody listens there."""

    code = "model_unavailable"
    message = "The model cannot be reached at the moment"
    retry_after = RETRY_SECONDS


class Overloaded(UpstreamError):
    """429 or 503."""

    code = "model_unavailable"
    message = "The model is busy"
    is_doubtful = False

    def __init__(self, retry_after: int) -> None:
        super().__init__()
        self.retry_after = retry_after


class Refused(UpstreamError):
    """The key, the model's name or the address is wrong: an operator must look."""

    message = "The model's server refused the request"
    retryable = False


class Slow(UpstreamError):
    """It fell silent."""

    code = "timeout"
    message = "The model's server did not answer in time"


class CutOff(UpstreamError):
    """The connection ended before the answer."""

    message = "The model's server broke off its answer"


class Unreadable(UpstreamError):
    """The answer is not what the protocol says."""

    message = "The model's server gave an answer that cannot be read"
    retryable = False
    is_doubtful = False


class TooLarge(Unreadable):
    """The answer does not end."""

    message = "The model's server gave an answer that is too large"


@dataclass(frozen=True, slots=True)
class Access:
    """Where the upstream is, what the model is called there, and where its key is kept."""

    base: str
    model: str
    key_env: str = ""
    key_file: str = ""
    ca_file: str = ""

    @classmethod
    def of(cls, source: str, options: dict[str, Any], *, model_id: str) -> Access:
        """From a ModelSpec's source and options. Raises LoadError."""
        if SECRETS & options.keys():
            raise LoadError(
                "The options must not hold a key; name its place in key_env or key_file"
            )
        texts = {name: options.get(name) or "" for name in ("key_env", "key_file", "ca_file")}
        model = options.get("model") or model_id
        if not all(isinstance(text, str) for text in [*texts.values(), model]):
            raise LoadError("model, key_env, key_file and ca_file must be texts")
        if texts["key_env"] and texts["key_file"]:
            raise LoadError("The key is either in key_env or in key_file")
        return cls(checked_base(source), model, **texts)

    def key(self) -> str:
        """The key as it is now; empty where none is needed. Raises LoadError."""
        if self.key_env:
            return _checked_key(os.environ.get(self.key_env, ""), f"variable {self.key_env}")
        if not self.key_file:
            return ""
        try:
            with Path(self.key_file).open(encoding="utf-8") as file:
                found = file.read(MOST_KEY)
        except (OSError, ValueError) as error:
            raise LoadError(f"The key file cannot be read: {type(error).__name__}") from None
        return _checked_key(found, "key file")


def checked_base(source: str) -> str:
    """The base address without a slash at its end. Raises LoadError."""
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise LoadError("The source is not an address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise LoadError("The source must be an address such as http://host:8000/v1")
    if "@" in parts.netloc:
        raise LoadError(
            "The source must not hold a password; name its place in key_env or key_file"
        )
    if parts.query or parts.fragment or not source.isprintable() or " " in source:
        raise LoadError("The source must be a plain address without a query")
    return source.rstrip("/")


def _checked_key(text: str, where: str) -> str:
    """A key that fits into a header, or the client's error would show it."""
    key = text.strip()
    if not key:
        raise LoadError(f"There is no key in the {where}")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise LoadError(f"The key in the {where} holds characters that no key has")
    return key


class Upstream:
    """Requests to one upstream; for one event loop."""

    def __init__(
        self,
        access: Access,
        *,
        connections: int = 4,
        read_seconds: float = READ_SECONDS,
        most_answer: int = MOST_ANSWER,
    ) -> None:
        """Raises LoadError for a key or a certificate that cannot be read."""
        self.access = access
        self.heard_at = 0.0
        """When the upstream last gave a sign of life (time.monotonic)."""
        self._key = access.key()
        self._most_answer = most_answer
        try:
            verify = ssl.create_default_context(cafile=access.ca_file) if access.ca_file else True
        except (OSError, ssl.SSLError):
            raise LoadError("The file in ca_file holds no certificates") from None
        self._client = httpx2.AsyncClient(
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(
                connect=CONNECT_SECONDS, read=read_seconds, write=SEND_SECONDS, pool=None
            ),
            limits=httpx2.Limits(
                max_connections=connections + 2,
                max_keepalive_connections=connections,
                keepalive_expiry=KEEP_SECONDS,
            ),
        )
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    # -- being well -----------------------------------------------------------------------------

    async def look(self) -> None:
        """See whether it answers, takes the key and has the model. Raises UpstreamError or LoadError.

        The key is read anew, so that one that was exchanged is taken up.
        """
        self._key = self.access.key()
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._look()
        except (TimeoutError, httpx2.HTTPError) as error:
            raise Unreachable from error

    async def _look(self) -> None:
        response = await self._client.send(self._request("GET", "/models", None), stream=True)
        try:
            if response.status_code in (401, 403):
                raise LoadError("The upstream does not accept the key")
            if 300 <= response.status_code < 400:
                raise LoadError("The upstream answers with a redirect; redirects are not followed")
            if response.status_code >= 500:
                raise Unreachable
            self.heard_at = time.monotonic()
            if response.status_code == 200:
                self._find_model(await self._content(response, MOST_LISTED))
        finally:
            await response.aclose()

    def _find_model(self, content: bytes) -> None:
        """A list without the model is an error; what is no list proves nothing."""
        try:
            listed = parsed(content).get("data")
        except Unreadable:
            return
        if not isinstance(listed, list):
            return
        names = [entry["id"] for entry in listed if isinstance(entry, dict) and "id" in entry]
        if names and self.access.model not in names:
            shown = ", ".join(str(name)[:60] for name in names[:5])
            wanted = self.access.model
            raise LoadError(f"The upstream has no model {wanted!r}; it lists {shown}")

    # -- requests -------------------------------------------------------------------------------

    async def answer(self, path: str, body: bytes) -> bytes:
        """The whole answer. Raises UpstreamError or InvalidInput."""
        async with self.post(path, body) as response:
            return await self.content(response)

    async def content(self, response: httpx2.Response) -> bytes:
        """All of an answer. Raises UpstreamError."""
        return await self._content(response, self._most_answer)

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[httpx2.Response]:
        """A request that was taken; its answer is yet to be read. Leaving closes the connection
        unless all was read. Raises UpstreamError or InvalidInput."""
        response = await self._send(path, body)
        if response.status_code == 401 and self._takes_new_key():
            await response.aclose()
            response = await self._send(path, body)
        try:
            self.heard_at = time.monotonic()
            if response.status_code != 200:
                raise await self._failure(response)
            yield response
        finally:
            await response.aclose()

    async def events(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        """The data of each server-sent event. Raises UpstreamError."""
        left, data = b"", []
        async with aclosing(self._chunks(response, self._most_answer)) as chunks:
            async for chunk in chunks:
                *lines, left = (left + chunk).split(b"\n")
                if len(left) + sum(map(len, data)) > MOST_EVENT:
                    raise TooLarge
                for line in lines:
                    line = line.rstrip(b"\r")
                    if line.startswith(b"data:"):
                        data.append(line[5:].removeprefix(b" "))
                    elif not line and data:
                        yield b"\n".join(data)
                        data = []
        if data:
            yield b"\n".join(data)

    def _takes_new_key(self) -> bool:
        """Whether the key was exchanged since it was read."""
        with contextlib.suppress(LoadError):
            old, self._key = self._key, self.access.key()
            return old != self._key
        return False

    def _request(self, method: str, path: str, body: bytes | None) -> httpx2.Request:
        headers = {"accept-encoding": "identity", "user-agent": "casola"}
        if body is not None:
            headers["content-type"] = "application/json"
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        return self._client.build_request(
            method, self.access.base + path, content=body, headers=headers
        )

    async def _send(self, path: str, body: bytes) -> httpx2.Response:
        """Once more where a kept connection turns out to be closed."""
        for is_last in (False, True):
            try:
                return await self._client.send(self._request("POST", path, body), stream=True)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                raise Unreachable from error
            except httpx2.TimeoutException as error:
                raise Slow from error
            except httpx2.HTTPError as error:
                if is_last:
                    raise CutOff from error
        raise CutOff

    async def _content(self, response: httpx2.Response, most: int) -> bytes:
        async with aclosing(self._chunks(response, most)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def _chunks(self, response: httpx2.Response, most: int) -> AsyncIterator[bytes]:
        """The body as it came: what is packed could unpack to anything."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Unreadable
        size = 0
        try:
            async for chunk in response.aiter_raw():
                self.heard_at = time.monotonic()
                size += len(chunk)
                if size > most:
                    raise TooLarge
                yield chunk
        except httpx2.TimeoutException as error:
            raise Slow from error
        except httpx2.HTTPError as error:
            raise CutOff from error

    async def _failure(self, response: httpx2.Response) -> RunnerError:
        status = response.status_code
        if status in (429, 503):
            return Overloaded(retry_after(response.headers.get("retry-after")))
        if status in (400, 413, 422):
            try:
                found = parsed(await self._content(response, MOST_ERROR))
            except UpstreamError:
                found = {}
            return self.refusal(found)
        if status in (408, 504):
            return Slow()
        return UpstreamError() if status >= 500 else Refused()

    def refusal(self, body: dict[str, Any]) -> InvalidInput:
        """The caller's mistake, in the upstream's words without its names."""
        error = body.get("error")
        found = error if isinstance(error, dict) else body
        message, param, code = found.get("message"), found.get("param"), found.get("code")
        if not isinstance(message, str):
            message = error if isinstance(error, str) else "The model refused the request"
        if "context length" in message and code not in REFUSALS:
            code = "context_length_exceeded"
        return InvalidInput(
            self._without_names(message),
            code=code if code in REFUSALS else REFUSALS[0],
            param=param if isinstance(param, str) and 0 < len(param) <= 200 else None,
        )

    def _without_names(self, message: str) -> str:
        parts = urlsplit(self.access.base)
        for name in (self._key, self.access.base, parts.netloc, parts.hostname or ""):
            if name:
                message = message.replace(name, "…")
        printable = "".join(letter if letter.isprintable() else " " for letter in message)
        return clean(printable[:MOST_MESSAGE]).strip() or "The model refused the request"


def retry_after(text: str | None) -> int:
    """Whole seconds, from 1 to 59; of a date or nonsense the usual ones."""
    try:
        return min(59, max(1, math.ceil(float(text or RETRY_SECONDS))))
    except (ValueError, OverflowError):
        return RETRY_SECONDS


def parsed(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises Unreadable."""
    try:
        found = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Unreadable from error
    if not isinstance(found, dict):
        raise Unreadable
    return found


def _no_number(name: str) -> float:
    raise ValueError(name)


def clean(text: str) -> str:
    """Text that can be encoded: half a pair becomes the replacement character."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
