"""The Channels consumer of endpoints that wait or stream: an open request holds no thread.

Everything it enforces it takes from the viewset it is given. The handler runs as a task, so that a
caller who leaves cancels it, and with it the Runner's work within a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from django.core.handlers.asgi import ASGIRequest

from casola_site.core import errors
from casola_site.core.database import in_thread, to_the_end
from casola_site.core.exception_handler import as_api_error
from casola_site.core.guard.rules import draining
from casola_site.core.multipart import IN_MEMORY, Form, is_form, read_form
from casola_site.core.network import base_url
from casola_site.core.parsers import json_object
from inference.api import later
from inference.api.interactive import Call, Interactive, encode
from inference.hub import Bytes, Finished, Sized, Started, hub
from tokens.identity import Identity
from tokens.permissions import check_scope
from usage.admission import Headers, address_in, admitted, joined
from usage.limits import Decision
from usage.throttling import rate_class_of

logger = logging.getLogger(__name__)

LATER_THREADS = 4
# Threads of its own: it hashes and stores large bodies, which ends and tokens must not wait for.
submit_async = in_thread(later.submit, ThreadPoolExecutor(LATER_THREADS, "later"))
STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class InteractiveConsumer(AsyncConsumer):
    """One request to an Interactive viewset."""

    view: Any = None

    def __init__(self, view: type[Interactive]) -> None:
        self.view = view
        self.body: list[bytes] = []
        self.file: IO[bytes] | None = None
        self.form: Form | None = None
        self.size = 0
        self.task: asyncio.Task[None] | None = None
        self.decision: Decision | None = None
        self.call: Call | None = None
        self.has_begun = False
        self.is_bytes = False
        self.app: asyncio.Task[None] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Take messages one by one: without a channel layer there is nothing to wait for beside."""
        self.scope = scope
        self.base_send = send
        self.app = asyncio.current_task()
        try:
            with contextlib.suppress(StopConsumer):
                while True:
                    await self.dispatch(await receive())
        except asyncio.CancelledError:
            await self._cut_off()
            raise

    async def dispatch(self, message: dict[str, Any]) -> None:
        """No database connection belongs to this task, so there is none to look after."""
        match message["type"]:
            case "http.request":
                await self.http_request(message)
            case "http.disconnect":
                await self.http_disconnect(message)

    async def http_request(self, message: dict[str, Any]) -> None:
        """Collect the body, then begin."""
        if self.task is not None:
            return
        part = message.get("body", b"")
        self.size += len(part)
        if self.size <= self.view.body_cap:
            self._keep(part)
        if not message.get("more_body"):
            self.task = asyncio.create_task(self._handle())

    def _keep(self, part: bytes) -> None:
        if not self.view.takes_forms:
            self.body.append(part)
            return
        if self.file is None:
            self.file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - `_handle` closes it
        self.file.write(part)

    async def http_disconnect(self, message: dict[str, Any]) -> None:
        """The caller left, or everything is sent."""
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        raise StopConsumer

    async def _cut_off(self) -> None:
        """The server ends the request: a stream says so, and the work does not go on unseen."""
        if self.task is None or self.task.done():
            return
        if draining():
            # The process is about to end. The Runner sees that, and charges nothing for it.
            if self.has_begun and not self.is_bytes:
                await self._send(self.view.stream_error(errors.Unavailable()), more=False)
            return
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _handle(self) -> None:
        try:
            await self._answer()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: everything becomes the envelope
            await self._fail(as_api_error(error))
        finally:
            for file in (self.form, self.file):
                if file is not None:
                    file.close()

    async def _answer(self) -> None:
        headers = joined(self.scope["headers"])
        method = self.scope["method"]
        identity, self.decision = await admitted(
            authorization=headers.get(b"authorization", b"").decode("latin-1"),
            address=address_in(self.scope, headers),
            rate_class=rate_class_of(self.view, method),
        )
        check_scope(identity, self.view, method)
        if self.size > self.view.body_cap:
            raise errors.PayloadTooLarge
        data = await self._data(headers.get(b"content-type", b"").decode("latin-1"))
        if later.is_for_later(data):
            await self._later(identity, data, headers.get(b"idempotency-key"))
            return
        self.call = call = await self.view.prepare(hub(), identity, data)
        if self.view.tells_addresses:
            call.base = self._base()
        content_type = self.view.content_type(call)
        if content_type is not None:
            await self._bytes(call, content_type)
        elif call.body.get("stream"):
            await self._stream(call)
        else:
            await self._whole(call)

    def _base(self) -> str:
        return base_url(ASGIRequest(self.scope, io.BytesIO()))

    async def _later(self, identity: Identity, data: dict[str, Any], key: bytes | None) -> None:
        """Make a Job of it. Whoever leaves meanwhile has submitted it all the same."""
        submission = submit_async(
            self.view,
            identity=identity,
            data=data,
            key=None if key is None else key.decode("latin-1"),
            base=self._base(),
        )
        accepted = await to_the_end(submission)
        await self._respond(202, encode(accepted.body).encode(), accepted.headers)

    async def _data(self, content_type: str) -> dict[str, Any]:
        """The body as an object; none is an empty one, as in DRF."""
        if not self.size:
            return {}
        body, self.body = b"".join(self.body), []
        if self.file is None:
            return json_object(body, content_type)
        self.file.seek(0)
        if not is_form(content_type):
            return json_object(self.file.read(), content_type)
        reading = asyncio.to_thread(read_form, self.file, size=self.size, content_type=content_type)
        self.form = await reading
        return self.form.values(lists=self.view.form_lists, fields=self.view.form_fields())

    async def _whole(self, call: Call) -> None:
        async for piece in self.view.pieces(hub(), call):
            if isinstance(piece, Finished):
                body = await self.view.render(call, piece)
                headers = {**call.headers(), "content-type": self.view.answer_type(call)}
                await self._respond(200, body, headers)

    async def _stream(self, call: Call) -> None:
        pieces, stream = self.view.pieces(hub(), call), self.view.stream(call)
        try:
            async for piece in pieces:
                if isinstance(piece, Started):
                    continue
                data = stream.chunks(piece)
                if not self.has_begun:
                    await self._begin(200, {**STREAM_HEADERS, **call.headers()})
                    data = stream.opening() + data
                await self._send(data, more=not isinstance(piece, Finished))
        except errors.ApiError as error:
            if not self.has_begun:
                raise
            await self._send(self.view.stream_error(error), more=False)
        finally:
            await pieces.aclose()

    async def _bytes(self, call: Call, content_type: str) -> None:
        """A finished file with its size, or one that is sent as it is made."""
        self.is_bytes = True
        headers = {"content-type": content_type, "x-content-type-options": "nosniff"}
        pieces = self.view.pieces(hub(), call)
        try:
            async for piece in pieces:
                match piece:
                    case Sized(size):
                        sized = {**headers, "content-length": str(size)}
                        await self._begin(200, {**sized, **call.headers()})
                    case Bytes(data):
                        if not self.has_begun:
                            await self._begin(200, {**headers, **call.headers()})
                        await self._send(data, more=True)
                    case Finished():
                        await self._send(b"", more=False)
        finally:
            await pieces.aclose()

    async def _fail(self, error: errors.ApiError) -> None:
        if self.has_begun and self.is_bytes:
            # Bytes have no words for an error: without its end nobody takes the answer for whole.
            assert self.app is not None  # noqa: S101 - it runs this
            self.app.cancel()
            return
        if self.has_begun:
            await self._send(self.view.stream_error(error), more=False)
            return
        body = json.dumps(errors.body_for(error, self.view.error_format)).encode()
        headers = self.call.headers() if self.call is not None else {}
        await self._respond(error.status, body, {**headers, **error.headers})

    async def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.has_begun = True
        if self.decision is not None:
            headers = {**self.decision.headers(), **headers}
        headers["x-request-id"] = self.scope.get("request_id") or uuid.uuid4().hex
        raw: Headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def _send(self, data: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def _respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        framing = {"content-type": "application/json", "content-length": str(len(body))}
        await self._begin(status, {**framing, **headers})
        await self._send(body, more=False)
