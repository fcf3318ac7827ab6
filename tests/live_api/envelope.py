"""What every error answer must look like, and bodies and routes that many tests share."""

from __future__ import annotations

import re
from typing import Any

CHAT = "/openai/v1/chat/completions"
TEXT = "/openai/v1/completions"
SPEECH = "/openai/v1/audio/speech"
FILMS = "Wan-AI/Wan2.2-TI2V-5B"
IMAGES = "/openai/v1/images/generations"
EDITS = "/openai/v1/images/edits"
TRANSCRIPTIONS = "/openai/v1/audio/transcriptions"
TRANSLATIONS = "/openai/v1/audio/translations"
EMBEDDINGS = "/openai/v1/embeddings"
RERANK = "/openai/v1/rerank"
SCORE = "/openai/v1/score"
EMBEDDER = "BAAI/bge-large-en-v1.5"
RERANKER = "BAAI/bge-reranker-v2-m3"
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    416: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}
LEAK = re.compile(
    r"Traceback|File \"|line \d+, in |\.py\b|psycopg|sqlite|django|rest_framework|redis"
    r"|DETAIL:|SELECT |relation \"|/tmp/|/home/|/root/|site-packages|Exception\b|<html|<!doctype"
    r"|csl_sk_[0-9A-Za-z]{20}|object at 0x",
    re.IGNORECASE,
)
GHOST_JOB = "01890a5d-ac96-774b-bcce-b302099a8057"


def assert_envelope(
    response: Any, status: int | tuple[int, ...], *, code: str | None = None, path: str = ""
) -> dict[str, Any]:
    """The inner error object, after its status, form and headers were checked."""
    statuses = (status,) if isinstance(status, int) else status
    assert response.status_code in statuses, (response.status_code, response.text[:500])
    assert response.headers["content-type"].split(";")[0] == "application/json", response.headers
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    assert not LEAK.search(response.text), response.text[:500]
    body = response.json()
    allowed = {"error", "request_id", "detail", "message"}
    assert set(body) <= allowed | ({"budget"} if response.status_code == 402 else set()), body
    error = body["error"]
    path = path or response.request.url.path
    keys = {"code", "message", "type"}
    if path.startswith("/openai/"):
        assert set(error) == keys | {"param"}, error
    else:
        assert keys <= set(error) <= keys | {"param"}, error
        assert error.get("param", "x"), error
    assert error["type"] == TYPES.get(response.status_code, "api_error"), error
    assert isinstance(error["code"], str)
    assert re.fullmatch(r"[a-z_]+", error["code"]), error
    assert isinstance(error["message"], str)
    assert 0 < len(error["message"]) < 1000, error
    assert error.get("param") is None or isinstance(error["param"], str)
    if code is not None:
        assert error["code"] == code, error
    if response.status_code == 401:
        assert response.headers["www-authenticate"] == "Bearer"
    if response.status_code in (429, 503):
        # Files go after a day, all else frees itself within a minute.
        most = 86_400 if error["message"].startswith("The files of your") else 59
        assert 1 <= int(response.headers["retry-after"]) <= most
    return error


def chat_body(text: Any = "hi", **fields: Any) -> dict[str, Any]:
    """A request to the stub engine."""
    return {"model": "test/echo", "messages": [{"role": "user", "content": text}], **fields}


def text_body(prompt: Any = "hi", **fields: Any) -> dict[str, Any]:
    """The same for plain completion."""
    return {"model": "test/echo", "prompt": prompt, **fields}


def speech_body(**fields: Any) -> dict[str, Any]:
    """A request to the voice without weights."""
    return {"model": "Qwen3-TTS", "input": "Hi.", "voice": "alloy", **fields}


def transcription_body(**fields: Any) -> dict[str, Any]:
    """A request to the demo model that listens, with nothing to hear."""
    return {"model": "whisper-large-v3", "url": "data:audio/wav,x", **fields}


def image_body(**fields: Any) -> dict[str, Any]:
    """A request to the demo model of pictures."""
    return {"model": "flux", "prompt": "a red circle on blue", "size": "64x64", **fields}


def video_job(task: str = "fal/text-to-video", **fields: Any) -> dict[str, Any]:
    """A Job for the demo model of films."""
    film = {"prompt": "a red circle moving to the right on blue", "size": "64x64", "num_frames": 9}
    return {"model_id": FILMS, "task": task, "input": {**film, "fps": 8, **fields}}


def embeddings_body(text: Any = "hi", **fields: Any) -> dict[str, Any]:
    """A request to the demo model of embeddings."""
    return {"model": EMBEDDER, "input": text, **fields}


def rerank_body(*documents: Any, **fields: Any) -> dict[str, Any]:
    """A request to the demo reranker."""
    return {"model": RERANKER, "query": "hi", "documents": list(documents or ["a", "b"]), **fields}


def score_body(one: Any = "hi", two: Any = "ho", **fields: Any) -> dict[str, Any]:
    """A request for the score of a pair."""
    return {"model": RERANKER, "text_1": one, "text_2": two, **fields}


def job_body(**fields: Any) -> dict[str, Any]:
    """A job for the stub engine's own Task."""
    return {"model_id": "test/echo", "task": "test/echo", "input": {"units": 1}, **fields}


def bearer(secret: str) -> dict[str, str]:
    """Headers that carry it."""
    return {"Authorization": f"Bearer {secret}"}
