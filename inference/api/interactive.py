"""The declaration of an endpoint that waits or streams, and what carries it out.

A viewset that mixes this in is the one declaration: scope, rate class, serializers, schema. The
Channels consumer (`inference/api/consumers.py`) takes all of it from there and waits on the event
loop; under WSGI the viewset's own action does the same, holding a thread.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol

from asgiref.sync import async_to_sync
from django.conf import settings
from django.utils import timezone
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from casola_site.core import ids
from casola_site.core.database import in_thread, to_the_end
from casola_site.core.errors import ApiError, ModelNotFound
from casola_site.core.network import base_url
from casola_site.core.scopes import Scope
from inference.api import later
from inference.api.holding import held
from inference.api.revocation import OpenInteractive
from inference.hub import Bytes, Finished, Hub, Piece, RunnerLost, Sized, Started, hub
from inference.selectors import Model, find_model
from jobs.enums import JobStatus
from jobs.files import KeptFile
from jobs.services import Outcome, finish_jobs
from tokens import open_calls
from tokens.identity import Identity
from usage.slots import Slot, slots

finish_jobs_async = in_thread(finish_jobs)
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(slots=True)
class Call:
    """One request that was admitted and checked."""

    job_id: str
    identity: Identity
    model: Model
    requested_model: str
    body: dict[str, Any]
    created: float = field(default_factory=time.time)
    line_ms: int = 0
    """How long it waited for one of the Organization's slots."""
    started: Started | None = None
    finished: Finished | None = None
    sized: Sized | None = None
    base: str = ""
    """What absolute addresses of ours begin with for this caller."""

    def headers(self) -> dict[str, str]:
        """What every inference answer carries."""
        headers = {"x-casola-job-id": self.job_id}
        if self.model.is_demo:
            headers["x-casola-weights"] = "demo"
        total = round((time.time() - self.created) * 1000)
        timed = self.finished or self.sized
        begun = timed or self.started
        queue = self.line_ms + (begun.queue_ms if begun else 0)
        model = timed.model_ms if timed else max(0, total - queue)
        headers["server-timing"] = f"queue;dur={queue}, model;dur={model}, total;dur={total}"
        return headers


class Stream(Protocol):
    """One answer as a stream of server-sent events."""

    def opening(self) -> bytes:
        """What comes before the first piece; may be empty."""

    def chunks(self, piece: Piece) -> bytes:
        """What this piece becomes; may be empty. The last one is Finished."""


class Interactive:
    """Mixin of viewsets whose POST is one interactive Job."""

    task: ClassVar[str]
    required_scopes: ClassVar[dict[str, Scope]]
    request_serializer_class: ClassVar[type[BaseSerializer]]
    body_cap: ClassVar[int]
    takes_forms: ClassVar[bool] = False
    """Whether a body may be multipart/form-data; its files are `Upload`s in `check`'s data, open
    until the answer is sent."""
    tells_addresses: ClassVar[bool] = False
    """Whether its answers hold addresses of ours."""
    form_lists: ClassVar[frozenset[str]] = frozenset()
    """Names of a form that may come several times."""

    @classmethod
    @functools.cache
    def request_serializer(cls) -> BaseSerializer:
        """One shared instance: it holds no request, and building one costs more than using it."""
        return cls.request_serializer_class()

    @classmethod
    @functools.cache
    def form_fields(cls) -> dict[str, Any]:
        """What a form's texts may have to become."""
        return {**cls.request_serializer().fields, **later.WishesSerializer().fields}

    @classmethod
    def check(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The validated body. Raises DRF's ValidationError."""
        body = cls.request_serializer().run_validation(data)
        body.pop(later.ASYNC, None)
        return body

    @classmethod
    def keep_files(
        cls, body: dict[str, Any], *, organization_id: int, now: datetime
    ) -> list[KeptFile]:
        """Put the files of a request that is done later into the storage, and say so in its body."""
        del body, organization_id, now
        return []

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """As every view; a request for later is not waited for."""
        super().initial(request, *args, **kwargs)  # type: ignore[misc]
        if request.method == "POST" and later.is_for_later(request.data):
            self.post = self.submit  # in place of the action that waits

    def submit(self, request: Any) -> Response:
        """202 and where to look, for servers without an event loop."""
        accepted = later.submit(
            type(self),
            identity=request.auth,
            data=request.data,
            key=request.headers.get("Idempotency-Key"),
            base=base_url(request),
        )
        return Response(accepted.body, status=202, headers=accepted.headers)

    @classmethod
    def contract(cls, body: dict[str, Any]) -> dict[str, Any]:
        """The Task's input for the Runner."""
        raise NotImplementedError

    @classmethod
    def answer(cls, call: Call, finished: Finished) -> dict[str, Any]:
        """The whole answer."""
        raise NotImplementedError

    @classmethod
    def content_type(cls, call: Call) -> str | None:
        """Of an answer that is bytes as the Runner makes them; None for JSON and events."""
        return None

    @classmethod
    def answer_type(cls, call: Call) -> str:
        """The Content-Type of the whole answer."""
        del call
        return "application/json"

    @classmethod
    async def render(cls, call: Call, finished: Finished) -> bytes:
        """The whole answer's bytes; what is large is rendered beside the event loop."""
        return encode(cls.answer(call, finished)).encode()

    @classmethod
    def stream(cls, call: Call) -> Stream:
        """What turns the pieces of this call's answer into a stream."""
        raise NotImplementedError

    @classmethod
    def stream_error(cls, error: ApiError) -> bytes:
        """The end of a stream that broke after its first output."""
        raise NotImplementedError

    @classmethod
    def wait(cls, identity: Identity, data: dict[str, Any]) -> tuple[Call, Finished]:
        """Run it whole while a thread waits; streams are the consumer's."""

        async def run() -> tuple[Call, Finished]:
            call = await cls.prepare(hub(), identity, data)
            call.body["stream"] = False
            async with aclosing(cls.pieces(hub(), call)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finished):
                        return call, piece
            raise ApiError

        return async_to_sync(run)()

    @classmethod
    def wait_for_bytes(cls, identity: Identity, data: dict[str, Any]) -> tuple[Call, bytes]:
        """The same for an answer that is bytes."""

        async def run() -> tuple[Call, bytes]:
            call = await cls.prepare(hub(), identity, data)
            call.body["stream"] = False
            found = [piece async for piece in cls.pieces(hub(), call)]
            return call, b"".join(piece.data for piece in found if isinstance(piece, Bytes))

        return async_to_sync(run)()

    @classmethod
    async def prepare(cls, link: Hub, identity: Identity, data: dict[str, Any]) -> Call:
        """Check the body and find the model. Raises ValidationError or ModelNotFound."""
        body = cls.check(data)
        model = find_model(await link.catalog(), body["model"], task=cls.task)
        if not identity.may_use(model.model_id):
            raise ModelNotFound(body["model"])
        return Call(str(ids.job_id()), identity, model, body["model"], body)

    @classmethod
    async def pieces(cls, link: Hub, call: Call) -> AsyncGenerator[Piece, None]:
        """Run it in one of the Organization's slots and within its budgets.

        A Runner lost on the way is recorded here, uncharged. Raises QueueFull or OutOfBudget before
        the first piece, or what `Hub.run` raises.
        """
        identity, contract = call.identity, cls.contract(call.body)
        request = {
            "task": cls.task,
            "input": contract,
            "stream": bool(call.body.get("stream")),
            "who": [
                identity.organization_pk,
                identity.token_pk,
                identity.user_pk,
                identity.organization_id,
            ],
            "created_at": call.created,
        }
        slot = None
        open_call = OpenInteractive(call, cls.required_scopes["POST"])
        open_calls.watch(open_call)
        try:
            slot = await cls.take_slot(call)
            async with held(call, cls.task, contract) as trace:
                stream = link.run(
                    job_id=call.job_id,
                    model=call.model,
                    request=request,
                    wait_seconds=settings.WAIT_SECONDS - call.line_ms / 1000,
                    trace=trace,
                )
                async with aclosing(stream):
                    async for piece in stream:
                        if isinstance(piece, Started):
                            call.started = piece
                        elif isinstance(piece, Finished):
                            call.finished = piece
                        elif isinstance(piece, Sized):
                            call.sized = piece
                        yield piece
        except RunnerLost:
            await to_the_end(finish_jobs_async([cls.lost(call)]))
            raise
        finally:
            open_calls.unwatch(open_call)
            if slot is not None:
                await slot.release()

    @classmethod
    async def take_slot(cls, call: Call) -> Slot | None:
        """The request's slot, when its turn has come; None without caps. Raises as `pieces`."""
        began = time.monotonic()
        try:
            return await slots().take(
                call.identity,
                job_id=call.job_id,
                stream=bool(call.body.get("stream")),
                wait_seconds=settings.WAIT_SECONDS,
            )
        finally:
            call.line_ms = round((time.monotonic() - began) * 1000)

    @classmethod
    def lost(cls, call: Call) -> Outcome:
        """The failed Job of an answer whose Runner died."""
        return Outcome(
            job_id=call.job_id,
            status=JobStatus.FAILED,
            organization_id=call.identity.organization_pk,
            token_id=call.identity.token_pk,
            user_id=call.identity.user_pk,
            model_id=call.model.model_id,
            queue_id=call.model.queue_id,
            task=cls.task,
            units={"prompt_tokens": call.started.prompt_tokens} if call.started else {},
            created_at=timezone.datetime.fromtimestamp(
                call.created, tz=timezone.get_default_timezone()
            ),
            error={"code": "worker_crashed", "message": RunnerLost.message, "param": None},
            charged=False,
        )
