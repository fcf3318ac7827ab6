"""One Casola serves the models of another, which has a database, Redis and folder of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import psycopg
import pytest

from tests import servers
from tests.live import CHAT, Live, wait_until
from tests.live_api.envelope import (
    EMBEDDER,
    EMBEDDINGS,
    LEAK,
    RERANK,
    RERANKER,
    SCORE,
    TEXT,
    assert_envelope,
)
from tests.servers import free_port

pytestmark = pytest.mark.slow
HERE = "here/chat"
KEEP = "from inference.models import ModelSpec; ModelSpec.objects.exclude(model_id__in={}).delete()"
PACED = "ModelSpec.objects.filter(model_id='test/echo').update(options={'token_ms': 20})"
USED = (
    "SELECT job_id, model_id, task, status, prompt_tokens, completion_tokens"
    " FROM usage_usagerecord ORDER BY id"
)


@dataclass
class Pair:
    """`front` is what callers talk to; `back` does the work."""

    front: Live
    back: Live
    limited: str

    def kill_back(self) -> None:
        """Nothing of it gets a chance to say good-bye."""
        for name in ("web", "gpu"):
            for process in self.back.tree(name):
                with contextlib.suppress(Exception):
                    process.send_signal(signal.SIGKILL)
        for process in self.back.processes.values():
            process.wait(20)

    def start_back(self) -> None:
        self.back.start_process("gpu", "qnode", f"gpu-{self.back.node}")
        self.back.start_process("web", "web")

    def add(self, model: str, task: str, *more: str, key_file: str = "") -> None:
        self.front.manage(
            "add_upstream", model, f"{self.back.url}/openai/v1", "--task", task,
            "--key-file", key_file or str(self.back.var_dir / "demo-key"), *more,
        )  # fmt: skip


def begin(live: Live, *keep: str) -> None:
    live.var_dir.mkdir(parents=True, exist_ok=True)
    live.port = free_port()
    live.manage("migrate", "-v0")
    live.manage("ensure_demo")
    live.python(f"{KEEP.format(list(keep))}; {PACED}")
    live.start_process("web", "web")
    live.start_process("gpu", "qnode", f"gpu-{live.node}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with servers.redis() as redis:
        back = Live.from_environment(folder / "back", redis_url=redis.url, node="back")
        front = Live.from_environment(
            folder / "front", environment={"RUNNER_SLOTS": "5"}, node="front"
        )
        try:
            begin(back, "test/echo", EMBEDDER, RERANKER)
            begin(front)
            back.wait_ready()
            limited = folder / "limited-key"
            limited.write_text(back.organization("free", name="limited")["secret"])
            found = Pair(front, back, str(limited))
            found.add(HERE, "openai/chat-completion", "--name", "test/echo")
            found.add(EMBEDDER, "openai/embeddings")
            found.add(RERANKER, "openai/rerank")
            for model in (HERE, EMBEDDER, RERANKER):
                front.wait_ready(model)
            yield found
        finally:
            front.stop()
            back.stop()


@pytest.fixture
def sdk(pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{pair.front.url}/openai/v1", api_key=pair.front.key) as client:
        yield client


def hello(text: str = "!tokens 4", **fields: Any) -> dict[str, Any]:
    return {"model": HERE, "messages": [{"role": "user", "content": text}], **fields}


def query(live: Live, sql: str) -> list[dict[str, Any]]:
    rows = psycopg.rows.dict_row
    with psycopg.connect(live.database_url, row_factory=rows) as connection:
        return connection.execute(sql).fetchall()


def used(live: Live) -> list[dict[str, Any]]:
    return query(live, USED)


def test_the_official_client_gets_whole_and_streamed_answers(pair, sdk):
    whole = sdk.chat.completions.create(**hello())
    assert whole.choices[0].message.content == "w0 w1 w2 w3 "
    assert whole.choices[0].finish_reason == "stop"
    assert (whole.model, whole.usage.prompt_tokens, whole.usage.completion_tokens) == (HERE, 2, 4)
    told = {"include_usage": True}
    chunks = list(sdk.chat.completions.create(**hello(), stream=True, stream_options=told))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "w0 w1 w2 w3 "
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 1
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    bare = list(sdk.chat.completions.create(**hello(), stream=True))
    assert all("usage" not in chunk.model_dump(exclude_unset=True) for chunk in bare)


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
WISHES = [
    {"text": "!tokens 9", "max_tokens": 3},
    {"text": "!tokens 9", "stop": ["w5"]},
    {"text": "!think !tokens 2"},
    {"text": "hi", "n": 3, "max_tokens": 2},
    {"text": "hi", "logprobs": True, "top_logprobs": 2, "max_tokens": 2},
    {"text": '!call look {"a": "ü"}', "tools": [TOOL]},
    {"text": "hi", "tools": [TOOL], "tool_choice": "required"},
    {"text": "hi", "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"text": "hi", "response_format": {"type": "json_object"}, "max_tokens": 2},
]  # fmt: skip


def both(pair: Pair, path: str, body: dict[str, Any], there: str) -> tuple[Any, Any]:
    """The front's answer and the back's own, without what is each one's."""
    answers = []
    for live, model in ((pair.front, body["model"]), (pair.back, there)):
        answer = live.post(path, {**body, "model": model})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        answers.append({k: v for k, v in found.items() if k not in ("id", "created", "model")})
    return answers[0], answers[1]


@pytest.mark.parametrize("wish", WISHES, ids=range(len(WISHES)))
def test_every_wish_is_met_as_if_it_were_asked_there(pair, wish):
    wish = dict(wish)
    here, there = both(pair, CHAT, hello(wish.pop("text"), **wish), "test/echo")
    assert here == there


def test_plain_completion_too(pair):
    body = {"model": HERE, "prompt": ["a b", "c"], "max_tokens": 2, "n": 2, "echo": True}
    here, there = both(pair, TEXT, body, "test/echo")
    assert here == there


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"model": EMBEDDER, "input": ["one text", "two"]}),
        (EMBEDDINGS, {"model": EMBEDDER, "input": "one", "dimensions": 8}),
        (EMBEDDINGS, {"model": EMBEDDER, "input": [[5, 6, 7]], "encoding_format": "base64"}),
        (RERANK, {"model": RERANKER, "query": "bakery", "documents": ["bread", "a bank"]}),
        (SCORE, {"model": RERANKER, "text_1": ["a", "b"], "text_2": ["c", "d"]}),
        (RERANK, {"model": EMBEDDER, "query": "bakery", "documents": ["bread", "a bank"]}),
    ],
    ids=range(6),
)
def test_texts_are_read_alike(pair, path, body):
    here, there = both(pair, path, body, body["model"])
    if body["model"] == EMBEDDER and path == RERANK:
        # the same cosines; the query is read once here, not once for each document
        here, there = ([entry["relevance_score"] for entry in one["data"]] for one in (here, there))
    assert flat(here) == pytest.approx(flat(there), abs=1e-5)


def flat(value: Any) -> list[float]:
    """All numbers of an answer in order."""
    if isinstance(value, str):
        packed = len(value) > 100
        return list(struct.unpack("<128f", base64.b64decode(value))) if packed else []
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in flat(value[key])]
    if isinstance(value, list):
        return [number for one in value for number in flat(one)]
    return [float(value)] if isinstance(value, int | float) else []


def test_both_ledgers_hold_the_same_units(pair):
    before = len(used(pair.front)), len(used(pair.back))
    answer = pair.front.post(CHAT, hello("!tokens 7"))
    job = pair.front.post(
        "/api/jobs", {"model_id": HERE, "task": "openai/chat-completion", "input": hello()}
    ).json()
    ended = pair.front.wait_job(job["id"])
    assert ended["status"] == "completed"
    assert ended["result"]["choices"][0]["message"]["content"] == "w0 w1 w2 w3 "
    here, there = used(pair.front)[before[0] :], used(pair.back)[before[1] :]
    assert [row["job_id"] for row in here] == [answer.headers["x-casola-job-id"], job["id"]]
    assert {row["model_id"] for row in here} == {HERE}
    assert {row["model_id"] for row in there} == {"test/echo"}
    units = [("completed", 2, 7), ("completed", 2, 4)]
    for rows in (here, there):
        found = [(r["status"], r["prompt_tokens"], r["completion_tokens"]) for r in rows]
        assert found == units


def test_leaving_stops_the_work_there(pair):
    before = len(used(pair.back))
    with httpx.stream(
        "POST",
        pair.front.url + CHAT,
        json=hello("!tokens 3000", stream=True),
        headers=pair.front.headers(),
        timeout=30,
    ) as stream:
        lines = (line for line in stream.iter_lines() if '"content":"w9 "' in line)
        next(lines)
        job_id = stream.headers["x-casola-job-id"]

    def stopped() -> dict[str, Any] | None:
        return next(iter(used(pair.back)[before:]), None)

    there = wait_until(stopped, seconds=20, what="the end of the work there")
    assert there["status"] == "cancelled"
    assert 9 < there["completion_tokens"] < 1500
    here = pair.front.wait_job(job_id)
    assert here["status"] == "cancelled"
    assert 9 < here["usage"]["completion_tokens"] <= there["completion_tokens"]


def test_what_is_wrong_is_said_in_our_words(pair):
    answer = pair.front.post(EMBEDDINGS, {"model": EMBEDDER, "input": "word " * 600})
    error = assert_envelope(answer, 400, code="context_length_exceeded")
    assert error["param"] == "input[0]"
    answer = pair.front.post(CHAT, hello("!error"))
    assert_envelope(answer, 502, code="worker_error")
    for text in (answer.text, str(answer.headers)):
        assert str(pair.back.port) not in text
        assert not LEAK.search(text)


def test_a_limit_there_says_when_to_come_again(pair):
    pair.add("here/limited", "openai/chat-completion", "--name", "test/echo", key_file=pair.limited)
    pair.front.wait_ready("here/limited")
    body = {**hello("!tokens 1"), "model": "here/limited"}
    answers = [pair.front.post(CHAT, body) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [503] * 2
    error = assert_envelope(answers[-1], 503, code="model_unavailable")
    assert error["message"] == "The model is busy"
    assert int(answers[-1].headers["retry-after"]) > 5
    # a job waits as long and is not blamed
    job = pair.front.post(
        "/api/jobs",
        {"model_id": "here/limited", "task": "openai/chat-completion", "input": body},
    ).json()

    def put_back() -> bool:
        sql = "SELECT failures, attempts FROM jobs_job WHERE status = 'pending'"
        return query(pair.front, sql) == [{"failures": 0, "attempts": 1}]

    wait_until(put_back, seconds=20, what="the job waits")
    assert pair.front.post(f"/api/jobs/{job['id']}/cancel").status_code == 200
    pair.front.manage("models", "disable", "here/limited")


def test_the_other_one_killed_in_the_middle_comes_back_and_nothing_is_lost(pair):
    """A stream ends with an error, a job waits until the other is back and is done once."""
    front = pair.front
    before = len(used(front))
    with httpx.stream(
        "POST",
        front.url + CHAT,
        json=hello("!tokens 3000", stream=True),
        headers=front.headers(),
        timeout=60,
    ) as stream:
        lines = stream.iter_lines()
        next(line for line in lines if '"content":"w9 "' in line)
        job = front.post(
            "/api/jobs",
            {
                "model_id": HERE,
                "task": "openai/chat-completion",
                "input": hello("!tokens 100"),
            },
        ).json()
        wait_until(lambda: front.job(job["id"])["status"] == "processing")
        pair.kill_back()
        rest = [line for line in lines if line]
    error = json.loads(rest[-2].removeprefix("data: "))["error"]
    assert (error["code"], rest[-1]) == ("worker_error", "data: [DONE]")
    assert str(pair.back.port) not in rest[-2]
    wait_until(lambda: front.status_of(HERE) == "offline", seconds=40, what="offline")
    placements = query(front, "SELECT detail FROM inference_placement WHERE failures > 2")
    assert {"detail": "The upstream cannot be reached"} in placements
    began = time.monotonic()
    assert_envelope(front.post(CHAT, hello()), 503, code="model_unavailable")
    assert time.monotonic() - began < 20
    assert front.job(job["id"])["status"] == "pending"

    pair.start_back()
    pair.back.wait_ready()
    ended = front.wait_job(job["id"], seconds=60)
    assert ended["status"] == "completed"
    assert ended["result"]["usage"]["completion_tokens"] == 100
    assert front.status_of(HERE) == "online"
    assert front.post(CHAT, hello()).json()["choices"][0]["message"]["content"] == "w0 w1 w2 w3 "
    rows = [row for row in used(front)[before:] if row["job_id"] == job["id"]]
    assert [(row["status"], row["completion_tokens"]) for row in rows] == [("completed", 100)]


def test_neither_the_key_nor_prompts_are_in_the_logs(pair):
    secrets = (pair.back.key, (pair.back.var_dir.parent / "limited-key").read_text())
    for file in pair.front.var_dir.glob("*.log"):
        text = file.read_text(errors="replace")
        assert not any(secret in text for secret in secrets), file
