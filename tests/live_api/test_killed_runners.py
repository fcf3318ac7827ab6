"""A Runner is killed in the middle of each Task: a job and an answer are under way, and come whole."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from PIL import Image

from tests.live import wait_until
from tests.live_api.envelope import (
    EMBEDDINGS,
    IMAGES,
    RERANK,
    SCORE,
    SPEECH,
    TRANSCRIPTIONS,
    embeddings_body,
    image_body,
    rerank_body,
    score_body,
    speech_body,
    transcription_body,
)
from tests.sound import seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TALK = "The bakery opens at seven, and the bank at nine. " * 30
TEXTS = [f"a text with the number {n} in it" for n in range(1_200)]
LONG = [f"{text}, and with more words than one reads" for text in TEXTS[:900]]
NAMES = ("prompt_tokens", "characters", "audio_ms", "images", "pixels")
UNITS = ", ".join(NAMES)
HOLDER = (
    "SELECT runner.id, runner.pid FROM jobs_job job JOIN jobs_runner runner"
    " ON runner.id = job.runner_id WHERE job.id = %s AND job.status = 'processing'"
)


@dataclass(frozen=True)
class Case:
    """What is asked for, and how many files come of each time it is."""

    path: str
    task: str
    model: str
    """The fixture that loads it."""
    body: Callable[[Any], dict[str, Any]]
    check: Callable[[Any], None]
    files: int = 0


def has(count: int, key: str = "data") -> Callable[[Any], None]:
    def check(answer: Any) -> None:
        assert len(answer.json()[key]) == count

    return check


def is_spoken(answer: Any) -> None:
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert seconds(answer.content, "opus") > 60


def is_heard(answer: Any) -> None:
    assert answer.json()["duration"] > 60
    assert answer.json()["segments"][-1]["end"] > 55


CASES = {
    "embeddings": Case(
        EMBEDDINGS,
        "openai/embeddings",
        "readers",
        lambda http: embeddings_body(TEXTS, encoding_format="base64"),
        has(1_200),
    ),
    "rerank": Case(
        RERANK, "openai/rerank", "readers", lambda http: rerank_body(*LONG), has(900, "results")
    ),
    "score": Case(
        SCORE, "openai/score", "readers", lambda http: score_body(LONG[0], LONG), has(900)
    ),
    "speech": Case(
        SPEECH,
        "openai/audio-speech",
        "speaking",
        lambda http: speech_body(input=TALK, response_format="opus"),
        is_spoken,
        files=1,
    ),
    "transcription": Case(
        TRANSCRIPTIONS,
        "openai/audio-transcription",
        "hearing",
        lambda http: transcription_body(url=spoken(http), response_format="verbose_json"),
        is_heard,
    ),
    "images": Case(
        IMAGES,
        "openai/image-generation",
        "drawing",
        lambda http: image_body(n=4, size="256x256", num_inference_steps=30),
        has(4),
        files=4,
    ),
}


def spoken(http: Any) -> str:
    """A sound of some length."""
    answer = http.post(SPEECH, json=speech_body(input=TALK, response_format="opus"), timeout=120)
    assert answer.status_code == 200, answer.text
    return f"data:audio/ogg;base64,{base64.b64encode(answer.content).decode()}"


def rows(site: Any, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(site.live.database_url) as connection:
        return connection.execute(sql, arguments).fetchall()


def kill_holder(site: Any, job_id: str) -> int:
    """Kill the process of the Runner that has just claimed the Job; its row's id."""
    with psycopg.connect(site.live.database_url, autocommit=True) as connection:
        claimed = lambda: connection.execute(HOLDER, [job_id]).fetchone()  # noqa: E731
        pk, pid = wait_until(claimed, every=0.005, what="the job's beginning")
    os.kill(pid, signal.SIGKILL)
    return pk


@pytest.mark.parametrize("name", CASES)
def test_a_killed_runner_costs_no_answer_and_no_job(site, http, bare, ended, request, name):
    case = CASES[name]
    request.getfixturevalue(case.model)
    body = case.body(http)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(http.post, case.path, json=body, timeout=240)
        made = {"model_id": body["model"], "task": case.task, "input": body}
        job_id = http.post("/api/jobs", json=made).json()["id"]
        killed = kill_holder(site, job_id)
        answer = asking.result()
    assert answer.status_code == 200, answer.text[:300]
    case.check(answer)
    found = ended(job_id, seconds=90)
    assert found["status"] == "completed", found["error"]
    attempts = "SELECT attempts, crashes, runner_id <> %s FROM jobs_job WHERE id = %s"
    assert rows(site, attempts, killed, job_id) == [(2, 1, True)]
    # one record each, of the same units (a voice is not quite as long each time)
    for one in (job_id, answer.headers["x-casola-job-id"]):
        record = f"SELECT status, {UNITS} FROM usage_usagerecord WHERE job_id = %s"
        ((status, *units),) = rows(site, record, one)
        assert (status, sum(units) > 0) == ("completed", True)
        assert units == pytest.approx([found["usage"].get(name, 0) for name in NAMES], rel=1e-3)

    kept = "SELECT count(*) FROM jobs_storedfile WHERE job_id = %s"
    assert rows(site, kept, job_id) == [(case.files,)]
    for url in addresses(found["result"]):
        whole(bare.get(url).content, Path(url.partition("?")[0]))
    for file in (site.live.var_dir / "media/outputs").rglob("*-[0-9]*.*"):
        whole(file.read_bytes(), file)


def addresses(result: Any) -> list[str]:
    """Of the files in a result."""
    if isinstance(result, dict):
        return [
            url
            for key, value in result.items()
            for url in ([value] if key == "url" and isinstance(value, str) else addresses(value))
        ]
    return [url for one in result for url in addresses(one)] if isinstance(result, list) else []


def whole(content: bytes, name: Path) -> None:
    """Whether it can be read to its end."""
    if name.suffix == ".opus":
        assert seconds(content, "opus") > 0
    elif name.suffix == ".png":
        Image.open(io.BytesIO(content)).load()
    assert content, name
    assert not name.name.startswith("."), "a part of a file"
