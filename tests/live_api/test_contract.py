"""The seed's examples, word for word, where their routes exist."""

from __future__ import annotations

import io
import json
import re
import time

import httpx
import pytest
from PIL import Image

from tests import sound
from tests.live import wait_until
from tests.live_api.envelope import CHAT, GHOST_JOB, assert_envelope, bearer, job_body

pytestmark = pytest.mark.sqlite
SEED_CHAT = b"""{
"model": "test/echo",
"messages": [{"role": "user", "content": "Hello!"}]
}"""
SEED_TOKEN = b"""{
"name": "CI Pipeline Token",
"scopes": ["user:read", "user:write"]
}"""
SEED_SPEECH = b"""{
"model": "Qwen3-TTS",
"input": "Hello, welcome to Casola!",
"voice": "alloy",
"response_format": "mp3"
}"""
SEED_EMBEDDINGS = b"""{
"model": "BAAI/bge-large-en-v1.5",
"input": "The quick brown fox jumps over the lazy dog"
}"""
SEED_IMAGE = b"""{
"model": "flux",
"prompt": "a neon-lit alley in the rain",
"size": "1024x1024"
}"""
SEED_RERANK = b"""{
"model": "BAAI/bge-reranker-v2-m3",
"query": "What is machine learning?",
"documents": [
"Machine learning is a subset of artificial intelligence.",
"The weather today is sunny.",
"Deep learning uses neural networks with many layers."
],
"top_n": 2,
"return_documents": true
}"""
JSON = {"Content-Type": "application/json"}


def test_chat_completion(http):
    response = http.post(CHAT, content=SEED_CHAT, headers=JSON)
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"id", "object", "created", "model", "choices", "usage"}
    assert re.fullmatch(r"chatcmpl-[0-9a-f]+", body["id"])
    assert body["object"] == "chat.completion"
    assert abs(body["created"] - time.time()) < 30
    assert body["model"] == "test/echo"
    (choice,) = body["choices"]
    assert choice["index"] == 0
    assert set(choice["message"]) == {"role", "content"}
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].startswith("w0 w1 ")
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 16,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_chat_stream_is_the_same_answer_in_chunks(http):
    body = {**json.loads(SEED_CHAT), "stream": True}
    whole = http.post(CHAT, json=json.loads(SEED_CHAT)).json()["choices"][0]["message"]["content"]
    response = http.post(CHAT, json=body)
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole


@pytest.mark.usefixtures("speaking")
def test_speech(http):
    response = http.post("/openai/v1/audio/speech", content=SEED_SPEECH, headers=JSON)
    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/mpeg"
    samples = sound.decoded(response.content, "mp3")
    assert 1.0 < len(samples) / sound.RATE < 4.0
    assert sound.loudness(samples) > 0.02


@pytest.mark.usefixtures("hearing")
def test_transcription(http):
    said = "Hello, this is a sample recording."
    wish = {"model": "Qwen3-TTS", "input": said, "voice": "alloy", "response_format": "mp3"}
    recording = http.post("/openai/v1/audio/speech", json=wish).content
    response = http.post(
        "/openai/v1/audio/transcriptions",
        data={"model": "whisper-large-v3", "response_format": "verbose_json"},
        files={"file": ("recording.mp3", recording)},
    )
    assert response.status_code == 200
    body = response.json()
    shown = ("task", "language", "duration", "text", "segments")
    assert set(body) == {*shown, "usage"}
    assert (body["task"], body["language"]) == ("transcribe", "en")
    assert abs(body["duration"] - sound.seconds(recording, "mp3")) < 0.1
    assert re.findall(r"\w+", body["text"].lower()) == re.findall(r"\w+", said.lower())
    assert {"start", "end", "text"} <= set(body["segments"][0])


def test_voice_models(http):
    body = http.get("/api/voice/models").json()
    assert set(body) == {"models"}
    (model,) = [model for model in body["models"] if model["model_id"] == "Qwen3-TTS"]
    assert "alloy" in {voice["id"] for voice in model["voices"]}


@pytest.mark.usefixtures("drawing")
def test_image(http):
    response = http.post("/openai/v1/images/generations", content=SEED_IMAGE, headers=JSON)
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"created", "data", "output_format", "size"}
    assert abs(body["created"] - time.time()) < 60
    ((url,),) = (item.values() for item in body["data"])
    file = httpx.get(url)
    assert file.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(file.content)).size == (1024, 1024)


@pytest.mark.slow
def test_embeddings(http):
    response = http.post(
        "/openai/v1/embeddings", content=SEED_EMBEDDINGS, headers=JSON, timeout=120
    )
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert (body["object"], body["model"]) == ("list", "BAAI/bge-large-en-v1.5")
    (entry,) = body["data"]
    assert (entry["object"], entry["index"]) == ("embedding", 0)
    assert all(isinstance(value, float | int) for value in entry["embedding"])
    assert sum(value * value for value in entry["embedding"]) == pytest.approx(1, abs=1e-5)
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 9


@pytest.mark.slow
def test_rerank(http):
    """The demo weights put the definition first and leave the weather out, as the seed shows."""
    response = http.post("/openai/v1/rerank", content=SEED_RERANK, headers=JSON, timeout=120)
    assert response.status_code == 200
    body = response.json()
    documents = json.loads(SEED_RERANK)["documents"]
    assert body["object"] == "list"
    assert [entry["index"] for entry in body["data"]] == [0, 2]
    for entry in body["data"]:
        assert set(entry) == {"index", "relevance_score", "document"}
        assert entry["document"] == documents[entry["index"]]
    first, second = (entry["relevance_score"] for entry in body["data"])
    assert 1 > first > 0.5
    assert first > second > 0


def test_model_list(http):
    body = http.get("/openai/v1/models").json()
    assert set(body) == {"object", "data"}
    assert body["object"] == "list"
    wanted = {"id": "Qwen/Qwen3.5-4B", "object": "model", "created": 0, "owned_by": "casola"}
    assert wanted in body["data"]
    assert "test/away" not in {model["id"] for model in body["data"]}
    assert http.get("/openai/v1/models/Qwen%2FQwen3.5-4B").json() == wanted
    assert http.get("/openai/v1/models/Qwen/Qwen3.5-4B").json() == wanted


def test_model_status(http):
    body = http.get("/api/model-status").json()
    assert set(body) == {"models"}
    demo = next(model for model in body["models"] if model["model_id"] == "Qwen/Qwen3.5-4B")
    assert demo["spec_id"].startswith("spec_")
    assert demo["enabled"] is True
    assert demo["tasks"] == ["openai/chat-completion"]
    assert demo["status"] in ("online", "warming_up", "standby", "offline")
    away = next(model for model in body["models"] if model["model_id"] == "test/away")
    assert (away["enabled"], away["status"]) == (False, "offline")


def test_every_text_task_of_the_seed_has_its_model(http):
    models = {model["model_id"]: model for model in http.get("/api/model-status").json()["models"]}
    for model_id, task in (
        ("BAAI/bge-large-en-v1.5", "openai/embeddings"),
        ("BAAI/bge-reranker-v2-m3", "openai/rerank"),
    ):
        assert models[model_id]["tasks"] == [task]
        assert models[model_id]["demo"] is True
        assert models[model_id]["status"] != "offline"


def test_token_creation(site, http):
    path = f"/api/organizations/{site.alpha['id']}/tokens"
    response = http.post(path, content=SEED_TOKEN, headers=JSON)
    assert response.status_code == 201
    body = response.json()
    assert set(body) == {"token", "secret"}
    shown = {key: body["token"][key] for key in ("name", "scopes", "status")}
    assert shown == {
        "name": "CI Pipeline Token",
        "scopes": ["user:read", "user:write"],
        "status": "active",
    }
    assert body["token"]["id"].startswith("tok_")
    assert re.fullmatch(r"csl_sk_[0-9A-Za-z]{42}", body["secret"])
    again = http.get(f"{path}/{body['token']['id']}")
    assert body["secret"] not in again.text
    assert set(again.json()) == {"token"}
    assert httpx.get(site.url + "/openai/v1/models", headers=bearer(body["secret"])).is_success


def test_job_life(http):
    made = http.post("/api/jobs", json=job_body())
    assert made.status_code == 201
    assert set(made.json()) == {"id", "queue_id"}
    assert made.headers["x-casola-job-id"] == made.json()["id"]

    def completed():
        job = http.get(f"/api/jobs/{made.json()['id']}").json()
        return job if job["status"] == "completed" else None

    job = wait_until(completed, what="completion")
    assert set(job) == {
        "id",
        "queue_id",
        "model_id",
        "task",
        "status",
        "progress",
        "result",
        "error",
        "usage",
        "created_at",
        "started_at",
        "completed_at",
        "attempts",
        "priority",
        "metadata",
        "deadline_at",
        "expires_at",
        "data_deleted_at",
    }
    assert (job["usage"]["completion_tokens"], job["attempts"], job["error"]) == (1, 1, None)
    late = http.post(f"/api/jobs/{job['id']}/cancel")
    assert_envelope(late, 409, code="conflict")
    assert late.headers["x-should-retry"] == "false"


def test_job_can_be_cancelled(http):
    made = http.post("/api/jobs", json=job_body(input={"duration_ms": 60_000})).json()
    cancelled = http.post(f"/api/jobs/{made['id']}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    assert http.get(f"/api/jobs/{made['id']}").json()["status"] == "cancelled"


def test_unknown_job_is_the_seeds_error(http):
    for response in (
        http.get(f"/api/jobs/{GHOST_JOB}"),
        http.get("/api/jobs/nonsense"),
        http.post(f"/api/jobs/{GHOST_JOB}/cancel"),
    ):
        assert response.status_code == 404
        assert response.json() == {
            "error": {
                "code": "not_found",
                "message": "Job not found",
                "type": "not_found_error",
            }
        }


def test_every_answer_names_its_request(http):
    seen = [http.get("/openai/v1/models").headers["x-request-id"] for _ in range(3)]
    assert len(set(seen)) == 3
    sent = http.get("/openai/v1/models", headers={"X-Request-Id": "mine"})
    assert sent.headers["x-request-id"] != "mine"


def test_an_inference_answer_names_its_job_and_times(http):
    response = http.post(CHAT, content=SEED_CHAT, headers=JSON)
    times = dict(
        part.strip().split(";dur=") for part in response.headers["server-timing"].split(",")
    )
    assert set(times) == {"queue", "model", "total"}
    assert all(float(value) >= 0 for value in times.values())
    job = http.get(f"/api/jobs/{response.headers['x-casola-job-id']}").json()
    assert job["status"] == "completed"
    assert job["usage"]["completion_tokens"] == 16


def test_who_am_i(site, http):
    body = http.get("/api/users/me").json()
    assert body["organization"]["id"] == site.alpha["id"]
    assert body["user"]["role"] == "owner"
    assert body["token"]["id"] == site.alpha["admin_write_id"]
    assert site.alpha["admin_write"] not in json.dumps(body)
