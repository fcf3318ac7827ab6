"""Answers that are bytes, on their way out of a Runner's process: to a web process, or into storage.

What goes to a web process is never more than WINDOW ahead of what its caller has taken: the rest
waits here, large answers on disk, while the engine goes on with others. An answer that is not
streamed leaves after its end is written, with its size first. A Job's files are stored before its
row points to them.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import IO, TYPE_CHECKING, Any

from django.utils import timezone

from casola_site.core import outputs
from inference import frames
from inference.contracts.surfaces import MEDIA_TASKS
from inference.runners.base import Chunk, Media
from jobs.enums import JobStatus
from jobs.files import KeptFile
from jobs.link import Frame
from jobs.services import Outcome

if TYPE_CHECKING:
    from inference.work import Work

logger = logging.getLogger(__name__)

FRAME_BYTES = 32 * 1024
WINDOW = 256 * 1024


class Delivery:
    """The bytes of one answer; `end` is there once the engine is done and that is written."""

    def __init__(self, content: IO[bytes] | None = None) -> None:
        """Of a finished file, or of nothing yet."""
        # Closed with the request.
        self._file = content or tempfile.SpooledTemporaryFile(max_size=WINDOW)  # noqa: SIM115
        self.size = self._file.seek(0, os.SEEK_END)
        self.sent = 0
        self.taken = 0
        self.end: tuple[Outcome, str] | None = None

    @property
    def is_done(self) -> bool:
        """Whether only the last frame is left."""
        return self.end is not None and self.sent == self.size

    def add(self, data: bytes) -> None:
        """The next bytes."""
        self._file.seek(self.size)
        self._file.write(data)
        self.size += len(data)

    def pieces(self) -> Iterator[bytes]:
        """What may be sent now."""
        until = min(self.size, self.taken + WINDOW)
        self._file.seek(self.sent)
        while self.sent < until:
            piece = self._file.read(min(FRAME_BYTES, until - self.sent))
            self.sent += len(piece)
            yield piece

    def close(self) -> None:
        """Nobody needs it any more."""
        self._file.close()


class Deliveries:
    """All Deliveries of one Runner; its methods are for the event loop's thread."""

    def __init__(
        self,
        put: Callable[[str, Frame], None],
        say_last: Callable[[Work, Frame], None],
        threads: Executor,
        commit: Callable[..., None],
    ) -> None:
        """`put` sends a frame to a web process, `say_last` an answer's last one; files are stored
        in `threads`, and then `commit` writes the end."""
        self._put = put
        self._say_last = say_last
        self._threads = threads
        self._commit = commit

    def on_chunk(self, work: Work, event: Chunk) -> None:
        """The engine made more of an answer."""
        work.used = event.units
        if not event.data or work.reply is None:
            return
        if work.first_output_at is None:
            work.first_output_at = timezone.now()
        if work.delivery is None:
            work.delivery = Delivery()
        work.delivery.add(event.data)
        self._pump(work)

    def hold(self, work: Work, media: Media) -> None:
        """A finished file, to be sent when its end is written."""
        work.delivery = Delivery(media.content)

    def on_written(self, work: Work, outcome: Outcome, state: str) -> bool:
        """The end is written; returns whether bytes are left to be sent before it is said."""
        delivery = work.delivery
        if delivery is None or outcome.status != JobStatus.COMPLETED or state == "unknown":
            return False
        delivery.end = (outcome, state)
        if not work.streams:
            assert work.reply is not None  # noqa: S101 - it is interactive
            size = [delivery.size, work.queue_ms(), work.model_ms()]
            self._put(work.reply, [frames.SIZE, work.job_id, work.attempt, *size])
        self._pump(work)
        return True

    def on_more(self, work: Work | None, sender: str, taken: int) -> None:
        """The caller has taken so many bytes."""
        if work is not None and work.delivery is not None and work.reply == sender:
            work.delivery.taken = max(work.delivery.taken, taken)
            self._pump(work)

    def abandon(self, work: Work) -> bool:
        """Nobody takes the rest of an ended answer; returns whether all about it is written."""
        if work.delivery is None:
            return False
        work.reply = None
        return work.delivery.end is not None

    def _pump(self, work: Work) -> None:
        delivery = work.delivery
        assert delivery is not None  # noqa: S101 - that is what the callers know
        if work.streams or delivery.end is not None:
            for piece in delivery.pieces():
                assert work.reply is not None  # noqa: S101 - only interactive ones are delivered
                self._put(work.reply, [frames.BYTES, work.job_id, work.attempt, work.offset, piece])
                work.offset += len(piece)
        if delivery.is_done:
            final = work.last_frame(*delivery.end)
            assert final is not None  # noqa: S101 - it is completed
            self._say_last(work, final)

    def store(self, work: Work, media: tuple[Media, ...], outcome: Outcome) -> None:
        """Store files in a thread, then have the end of their Job written."""
        done: Future[bool] = self._threads.submit(_store, work, media, outcome)
        done.add_done_callback(
            lambda future: future.cancelled() or self._commit(outcome, retry=future.result())
        )


def _store(work: Work, media: tuple[Media, ...], outcome: Outcome) -> bool:
    """Whether it must be tried again: `outcome` tells then of the failure, else of the files."""
    try:
        stored = [_kept(work, item) for item in media]
        found = [told for told, _ in stored]
        outcome.files = tuple(file for _, file in stored)
        if work.is_claimed:
            created = int(work.created_at.timestamp())
            outcome.result = MEDIA_TASKS[work.task].result_body(found, created=created)
        else:
            work.value = {"media": found}  # a request that is waited for keeps no result
    except Exception as error:  # one Job's files must not end the others
        logger.exception("the files of job %s cannot be stored", work.job_id)
        outcome.status, outcome.charged, outcome.result = JobStatus.FAILED, False, None
        message = "The result could not be stored"
        outcome.error = {"code": "storage_unavailable", "message": message, "param": None}
        return isinstance(error, OSError) and work.is_claimed
    return False


def _kept(work: Work, item: Media) -> tuple[dict[str, Any], KeptFile]:
    """Store one file; what the result tells of it, and what is written down."""
    moment = timezone.now()
    name = outputs.new_name(
        organization_id=work.organization_id,
        attempt=work.attempt,
        extension=item.extension,
        now=moment,
    )
    with item.content as content:
        size = outputs.write(name, content)
    address = outputs.address(name, now=moment)
    told = {"url": address, "content_type": outputs.content_type(name), **item.about}
    return told, KeptFile(name, size, moment, moment + outputs.LIFETIME)
