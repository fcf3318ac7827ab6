"""Fixtures of the tests over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.live import wait_until
from tests.live_api import site as sites
from tests.live_api.envelope import (
    EMBEDDINGS,
    FILMS,
    IMAGES,
    RERANK,
    SPEECH,
    TRANSCRIPTIONS,
    embeddings_body,
    image_body,
    rerank_body,
    speech_body,
    transcription_body,
    video_job,
)
from tests.live_api.site import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with sites.site(tmp_path_factory.mktemp("site") / "var") as found:
        yield found


@pytest.fixture(scope="session")
def http(site: Site) -> Iterator[httpx.Client]:
    """Speaks for alpha with every scope."""
    headers = {"Authorization": f"Bearer {site.alpha['admin_write']}"}
    with httpx.Client(base_url=site.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def bare(site: Site) -> Iterator[httpx.Client]:
    """Says nothing of who it is."""
    with httpx.Client(base_url=site.url, timeout=60) as client:
        yield client


@pytest.fixture
def sdk(site: Site) -> Iterator[openai.OpenAI]:
    """The official client, as users set it up."""
    with openai.OpenAI(
        base_url=f"{site.url}/openai/v1", api_key=site.alpha["user_write"]
    ) as client:
        yield client


@pytest.fixture(scope="session")
def demo(site: Site) -> str:
    """The real demo model's id, once it is loaded."""
    if not (sites.DEMO_WEIGHTS / "config.json").is_file():
        pytest.skip("the demo weights are not in this checkout")
    wait_until(lambda: site.live.status_of(sites.DEMO) == "online", seconds=60, what="demo model")
    return sites.DEMO


@pytest.fixture(scope="session")
def speaking(http: httpx.Client) -> str:
    """The speech model's id, once it is loaded; the first request asks for that."""
    pytest.importorskip("espeakng_loader")
    wait_until(
        lambda: http.post(SPEECH, json=speech_body()).status_code == 200,
        seconds=240,
        what="the speech model",
    )
    return speech_body()["model"]


@pytest.fixture(scope="session")
def drawing(http: httpx.Client) -> str:
    """The model of pictures, once it is loaded."""
    wait_until(
        lambda: http.post(IMAGES, json=image_body(), timeout=200).status_code == 200,
        seconds=240,
        what="the model of pictures",
    )
    return image_body()["model"]


@pytest.fixture(scope="session")
def filming(site: Site, http: httpx.Client) -> str:
    """The model of films, once it is loaded; the first job asks for that."""
    made = http.post("/api/jobs", json=video_job())
    assert made.status_code == 201, made.text
    found = site.live.wait_job(made.json()["id"], seconds=240, key=site.alpha["user_read"])
    assert found["status"] == "completed", found
    return FILMS


@pytest.fixture(scope="session")
def hearing(http: httpx.Client, speaking: str) -> str:
    """The transcription model's id, once it is loaded; the first request asks for that."""
    sound = http.post(SPEECH, json=speech_body(response_format="wav")).content
    form = {"data": {"model": "whisper-large-v3"}, "files": {"file": ("a.wav", sound)}}
    wait_until(
        lambda: http.post(TRANSCRIPTIONS, **form).status_code == 200,
        seconds=240,
        what="the transcription model",
    )
    return "whisper-large-v3"


@pytest.fixture(scope="session")
def readers(site: Site) -> None:
    """The models of embeddings and rerank, loaded: they are not until somebody asks."""
    for path, body in ((EMBEDDINGS, embeddings_body()), (RERANK, rerank_body())):
        answer = site.live.post(path, body)
        assert answer.status_code == 200, answer.text
    answer = site.live.post(TRANSCRIPTIONS, transcription_body())
    assert answer.status_code == 400, answer.text


@pytest.fixture(scope="session")
def ended(site: Site):
    """Wait for a job's end: `ended(job_id, seconds=1)`."""

    def wait(job_id: str, seconds: float = 30.0, key: str | None = None) -> dict:
        return site.live.wait_job(job_id, seconds=seconds, key=key or site.alpha["user_read"])

    return wait
