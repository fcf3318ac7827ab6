"""The events of a Job to whoever follows them, by server-sent events or a WebSocket.

An open connection holds no thread. It takes one of the Organization's places for connections, and
ends within seconds when its caller is no longer good.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from channels.security.websocket import OriginValidator
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import QueryDict, parse_cookie

from casola_site.core import errors
from casola_site.core.database import in_thread
from casola_site.core.exception_handler import as_api_error
from casola_site.core.network import base_url
from jobs.api import events as api
from jobs.enums import TERMINAL
from jobs.following import Follower, follower
from jobs.selectors import Told
from jobs.sessions import Visitor, visitor
from tokens import open_calls
from tokens.identity import Identity
from tokens.permissions import check_scope
from usage.admission import address_in, admitted, joined
from usage.limits import Decision, RateClass
from usage.sockets import sockets

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

QUIET_SECONDS = 15.0
AUTH_SECONDS = 5.0
CLOSED, INTERNAL = 1000, 1011
CODES = {400: 4400, 401: 4401, 403: 4403, 404: 4404, 429: 4429}

job_to_follow = in_thread(api.job_to_follow)
visitor_async = in_thread(visitor)


@dataclass(slots=True, eq=False)
class Caller:
    """Who follows; see `tokens.open_calls.OpenCall`. A member comes with a session."""

    identity: Identity
    visit: Visitor | None = None
    follower: Follower | None = None

    async def reload(self) -> Identity:
        """As of now. Raises AuthenticationFailed or InsufficientScope."""
        if self.visit is not None:
            return (await visitor_async(self.visit.session_key, self.visit.job_id)).identity
        identity = await open_calls.load_identity(self.identity.digest)
        check_scope(identity, api.JobEventsViewSet, "GET")
        return identity

    def end(self, error: errors.ApiError) -> None:
        """Stop following."""
        if self.follower is not None:
            self.follower.end(error)


async def followed(
    caller: Caller, job_id: str, after: int, param: str
) -> AsyncGenerator[tuple[uuid.UUID, list[Told]]]:
    """The events of the caller's Job, some at a time. Raises JobNotFound, SocketsFull, …"""
    own = caller.identity.organization_pk
    job = await job_to_follow(organization_id=own, job_id=job_id, after=after, param=param)
    async with sockets().place(caller.identity):
        yield job.pk, []  # it is open, whenever the next event comes
        caller.follower = reader = follower(job.pk, after)
        open_calls.watch(caller)
        stream = reader.follow(is_over=job.status in TERMINAL, quiet_seconds=QUIET_SECONDS)
        try:
            async with contextlib.aclosing(stream):
                async for found in stream:
                    yield job.pk, found
        finally:
            open_calls.unwatch(caller)


def base_of(scope: Message) -> str:
    """What absolute addresses begin with for whoever opened this connection."""
    told = scope.get("scheme", "ws")  # a WebSocket's may be left out
    scheme = {"ws": "http", "wss": "https"}.get(told, told)
    return base_url(ASGIRequest({"method": "GET", **scope, "scheme": scheme}, io.BytesIO()))


async def until_gone(work: Awaitable[None], receive: Receive, gone: str) -> None:
    """Run it to its end, or until the other side has left."""
    task = asyncio.ensure_future(work)

    async def leave() -> None:
        while (await receive())["type"] != gone:
            pass

    leaving = asyncio.ensure_future(leave())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


class EventStream:
    """One request for a Job's events."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.decision: Decision | None = None
        self.has_begun = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer it."""
        self.scope, self.send = scope, send
        await until_gone(self._answer(), receive, "http.disconnect")

    async def _answer(self) -> None:
        try:
            await self._stream()
        except Exception as error:  # noqa: BLE001 - the edge: everything becomes the envelope
            await self._fail(as_api_error(error))

    async def _stream(self) -> None:
        headers = joined(self.scope["headers"])
        identity, self.decision = await admitted(
            authorization=headers.get(b"authorization", b"").decode("latin-1"),
            address=address_in(self.scope, headers),
            rate_class=RateClass.API_REQUEST,
        )
        check_scope(identity, api.JobEventsViewSet, "GET")
        last = headers.get(api.LAST_EVENT_ID.lower().encode(), b"").decode("latin-1")
        query = QueryDict(self.scope.get("query_string", b""))
        after, param = api.wanted_position(last, query)
        base = base_of(self.scope)
        stream = followed(Caller(identity), self.job_id, after, param)
        async with contextlib.aclosing(stream):
            async for job_id, found in stream:
                data = api.as_sse(job_id, found, base) if found else api.HEARTBEAT
                if not self.has_begun:
                    await self._begin(200, api.STREAM_HEADERS)
                    data = api.OPENING + data
                await self._send(data, more=True)
        await self._send(b"", more=False)

    async def _fail(self, error: errors.ApiError) -> None:
        if self.has_begun:
            await self._send(api.error_event(error), more=False)
            return
        body = json.dumps(errors.body_for(error, "native")).encode()
        framing = {"content-type": "application/json", "content-length": str(len(body))}
        await self._begin(error.status, {**framing, **error.headers})
        await self._send(body, more=False)

    async def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.has_begun = True
        told = self.decision.headers() if self.decision is not None else {}
        request_id = self.scope.get("request_id") or uuid.uuid4().hex
        every = {**told, **headers, "x-request-id": request_id}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in every.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def _send(self, data: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})


class JobSocket:
    """One WebSocket that follows a Job.

    The caller is whose token the handshake carries, or whose session if it comes from one of our
    own pages, or else who says so in the first message.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve it to its end."""
        self.scope, self.send = scope, send
        if (await receive())["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})
        self.headers = joined(scope["headers"])
        try:
            self.after = QueryDict(scope.get("query_string", b"")).get("after")
            caller = await self._caller(receive)
            if caller is not None:
                await until_gone(self._follow(caller), receive, "websocket.disconnect")
        except Exception as error:  # noqa: BLE001 - the edge: everything becomes a message
            await self._fail(as_api_error(error))

    async def _follow(self, caller: Caller) -> None:
        base, after = base_of(self.scope), api.position(self.after, param="after")
        stream = followed(caller, self.job_id, after, "after")
        async with contextlib.aclosing(stream):
            async for job_id, found in stream:
                for told in found:
                    text = api.as_text(api.event_body(job_id, told, base))
                    await self.send({"type": "websocket.send", "text": text})
        await self.send({"type": "websocket.close", "code": CLOSED})

    async def _fail(self, error: errors.ApiError) -> None:
        body = {"type": "error", **errors.body_for(error, "native")}
        await self.send({"type": "websocket.send", "text": api.as_text(body)})
        code = CODES.get(error.status, INTERNAL)
        await self.send({"type": "websocket.close", "code": code, "reason": error.code})

    async def _caller(self, receive: Receive) -> Caller | None:
        """Whoever is at the other end, None when they have left. Raises AuthenticationFailed, …"""
        authorization = self.headers.get(b"authorization", b"").decode("latin-1")
        if not authorization:
            if (key := self._session_key()) is not None:
                with contextlib.suppress(errors.AuthenticationFailed):
                    visit = await visitor_async(key, self.job_id)
                    return Caller(visit.identity, visit)
            secret = await self._first_message(receive)
            if secret is None:
                return None
            authorization = f"Bearer {secret}"
        identity, _ = await admitted(
            authorization=authorization,
            address=address_in(self.scope, self.headers),
            rate_class=RateClass.API_REQUEST,
        )
        check_scope(identity, api.JobEventsViewSet, "GET")
        return Caller(identity)

    def _session_key(self) -> str | None:
        """That of a browser on one of our own pages: others' pages must not use its cookies."""
        origin = self.headers.get(b"origin", b"").decode("latin-1")
        own = OriginValidator(None, settings.ALLOWED_HOSTS)
        if not origin or not own.valid_origin(urlsplit(origin)):
            return None
        cookie = self.headers.get(b"cookie", b"").decode("latin-1")
        return parse_cookie(cookie).get(settings.SESSION_COOKIE_NAME)

    async def _first_message(self, receive: Receive) -> str | None:
        """The secret in it, None when they have left. Raises AuthenticationFailed."""
        try:
            async with asyncio.timeout(AUTH_SECONDS):
                message = await receive()
        except TimeoutError:
            raise errors.AuthenticationFailed from None
        if message["type"] != "websocket.receive":
            return None
        try:
            body = json.loads(message.get("text") or "")
        except (ValueError, RecursionError):
            raise errors.AuthenticationFailed from None
        if not isinstance(body, dict) or body.get("type") != "auth":
            raise errors.AuthenticationFailed
        secret, after = body.get("token"), body.get("after")
        if not isinstance(secret, str):
            raise errors.AuthenticationFailed
        if after is not None:
            self.after = str(after) if isinstance(after, int | str) else "?"
        return secret
