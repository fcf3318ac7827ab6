"""Bytes of answers on their way: windows, ends, files of Jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from django.utils import timezone

from casola_site.core import outputs
from inference import delivery as module
from inference import frames
from inference.contracts.speech import TASK
from inference.delivery import FRAME_BYTES, WINDOW, Deliveries, Delivery
from inference.runners.base import Chunk, Media, Units
from inference.work import Work
from jobs.enums import JobStatus

MUCH = bytes(range(256)) * 4096  # 1 MB


def work_with(*, streams=False, reply="web", claimed=False):
    return Work(
        job_id="j",
        task=TASK,
        request={"input": "x", "voice": "alloy"},
        organization_id=1,
        token_id=None,
        user_id=None,
        salt="1",
        model_id="m",
        created_at=timezone.now(),
        reply=reply,
        streams=streams,
        is_claimed=claimed,
    )


def outcome_of(work, status=JobStatus.COMPLETED):
    return work.outcome(status, {"characters": 1}, queue_id="q", runner_id=1, prices={})


class Side:
    """What Deliveries say to a web process, and to the committer."""

    def __init__(self):
        self.sent = []
        self.last = []
        self.committed = []
        self.threads = ThreadPoolExecutor(1)
        self.desk = Deliveries(
            lambda channel, frame: self.sent.append(frame),
            lambda work, final: self.last.append(final),
            self.threads,
            lambda outcome, *, retry: self.committed.append((outcome, retry)),
        )

    @property
    def content(self) -> bytes:
        return b"".join(frame[4] for frame in self.sent if frame[0] == frames.BYTES)

    def stored(self, work, *contents):
        media = tuple(Media(BytesIO(content), "mp3") for content in contents)
        self.desk.store(work, media, outcome_of(work))
        self.threads.shutdown(wait=True)
        return self.committed[0]


@pytest.fixture
def side():
    found = Side()
    yield found
    found.threads.shutdown()


@pytest.fixture
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    return settings.MEDIA_ROOT


def test_a_stream_goes_no_further_than_the_window(side):
    work = work_with(streams=True)
    side.desk.on_chunk(work, Chunk("j", MUCH, Units(characters=3)))
    assert side.content == MUCH[:WINDOW]
    assert work.units() == {"characters": 3}
    side.desk.on_more(work, "web", 100_000)
    assert side.content == MUCH[: WINDOW + 100_000]
    side.desk.on_more(work, "web", 50_000)
    side.desk.on_more(work, "another", 500_000)
    assert len(side.content) == WINDOW + 100_000
    while len(side.content) < len(MUCH):
        side.desk.on_more(work, "web", len(side.content))
    assert side.content == MUCH
    assert max(len(frame[4]) for frame in side.sent) <= FRAME_BYTES
    assert side.last == []


def test_offsets_leave_no_gap(side):
    work = work_with(streams=True)
    at = 0
    side.desk.on_chunk(work, Chunk("j", MUCH[:777], Units()))
    side.desk.on_chunk(work, Chunk("j", MUCH[777:100_000], Units()))
    for frame in side.sent:
        assert frame[3] == at
        at += len(frame[4])
    assert at == work.offset == 100_000


def test_a_streams_last_frame_waits_for_its_bytes(side):
    work = work_with(streams=True)
    side.desk.on_chunk(work, Chunk("j", MUCH[: WINDOW + 10], Units()))
    assert side.desk.on_written(work, outcome_of(work), "accepted")
    assert side.last == []
    side.desk.on_more(work, "web", 10)
    (final,) = side.last
    assert final[0] == frames.END
    assert final[3] == WINDOW + 10
    assert final[4]["units"] == {"characters": 1}


def test_a_finished_file_leaves_after_its_end_is_written(side):
    work = work_with()
    side.desk.hold(work, Media(BytesIO(MUCH[:1000]), "mp3"))
    side.desk.on_more(work, "web", 0)
    assert side.sent == []
    assert side.desk.on_written(work, outcome_of(work), "accepted")
    assert [frame[0] for frame in side.sent] == [frames.SIZE, frames.BYTES]
    assert side.sent[0][3] == 1000
    assert side.content == MUCH[:1000]
    assert side.last[0][:4] == [frames.END, "j", 1, 1000]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (JobStatus.COMPLETED, "unknown"),
        (JobStatus.FAILED, "accepted"),
        (JobStatus.CANCELLED, "accepted"),
    ],
)
def test_an_end_that_is_no_success_sends_no_file(side, status, state):
    work = work_with()
    side.desk.hold(work, Media(BytesIO(b"x"), "mp3"))
    assert not side.desk.on_written(work, outcome_of(work, status), state)
    assert side.sent == []


def test_text_is_none_of_its_business(side):
    work = work_with()
    assert not side.desk.on_written(work, outcome_of(work), "accepted")
    assert not side.desk.abandon(work)


def test_nobody_takes_the_rest(side):
    work = work_with(streams=True)
    side.desk.on_chunk(work, Chunk("j", MUCH, Units()))
    work.is_ended = True
    assert work.is_open
    assert not side.desk.abandon(work)  # its end is not written yet
    assert work.reply is None
    work = work_with(streams=True)
    side.desk.on_chunk(work, Chunk("j", MUCH, Units()))
    side.desk.on_written(work, outcome_of(work), "accepted")
    assert side.desk.abandon(work)


def test_units_alone_are_news(side):
    work = work_with()
    side.desk.on_chunk(work, Chunk("j", b"", Units(characters=5, audio_ms=7)))
    assert work.units() == {"characters": 5, "audio_ms": 7}
    assert work.delivery is None
    assert work.first_output_at is None


def test_what_is_large_waits_on_disk():
    delivery = Delivery()
    delivery.add(MUCH[:WINDOW])
    delivery.add(MUCH[:WINDOW])
    assert delivery._file._rolled
    assert b"".join(delivery.pieces()) == MUCH[:WINDOW]


def test_a_jobs_file_is_stored_before_its_end_is_written(side, media):
    work = work_with(reply=None, claimed=True)
    outcome, retry = side.stored(work, b"sound")
    assert not retry
    assert outcome.status == JobStatus.COMPLETED
    audio = outcome.result["audio"]
    assert audio["content_type"] == "audio/mpeg"
    name = audio["url"].removeprefix("/outputs/").partition("?")[0]
    assert name.endswith("-1.mp3")
    assert (media / "outputs" / name).read_bytes() == b"sound"
    [file] = outcome.files
    assert (file.name, file.size_bytes) == (name, 5)
    assert file.expires_at - file.created_at == outputs.LIFETIME


def test_a_job_is_tried_again_when_its_file_cannot_be_stored(side, monkeypatch):
    def write(name, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write", write)
    outcome, retry = side.stored(work_with(reply=None, claimed=True), b"sound")
    assert retry
    assert (outcome.status, outcome.charged) == (JobStatus.FAILED, False)
    assert outcome.error["code"] == "storage_unavailable"
    assert outcome.result is None
    assert "space" not in outcome.error["message"]


def test_a_mistake_of_ours_is_not_tried_again(side, media, monkeypatch):
    monkeypatch.setattr(module, "MEDIA_TASKS", {})
    outcome, retry = side.stored(work_with(reply=None, claimed=True), b"sound")
    assert not retry
    assert outcome.status == JobStatus.FAILED
