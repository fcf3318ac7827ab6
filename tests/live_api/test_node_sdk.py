"""The official Node client, unmodified: what the functions in node/ expect."""

from __future__ import annotations

import pytest

from tests.live_api import node_tools


@pytest.fixture(scope="module")
def node(site):
    """Run one of the scenarios against the site."""
    problem = node_tools.install()
    if problem is not None:
        pytest.skip(problem)

    def run(script: str, name: str) -> None:
        node_tools.run_scenario(
            script,
            name,
            BASE_URL=f"{site.url}/openai/v1",
            API_KEY=site.alpha["user_write"],
            READ_KEY=site.alpha["user_read"],
            ORIGIN=site.url,
        )

    return run


@pytest.mark.parametrize("name", node_tools.scenarios("chat.mjs"))
def test_chat(node, name):
    node("chat.mjs", name)


@pytest.mark.parametrize("name", node_tools.scenarios("tools.mjs"))
def test_tools(node, name):
    node("tools.mjs", name)


@pytest.mark.parametrize("name", node_tools.scenarios("files.mjs"))
def test_files(node, name):
    node("files.mjs", name)


@pytest.mark.usefixtures("speaking")
@pytest.mark.parametrize("name", node_tools.scenarios("speech.mjs"))
def test_speech(node, name):
    node("speech.mjs", name)


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("name", node_tools.scenarios("transcription.mjs"))
def test_transcription(node, name):
    node("transcription.mjs", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", node_tools.scenarios("demo.mjs"))
def test_demo_model(node, demo, name):
    node("demo.mjs", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", node_tools.scenarios("reading.mjs"))
def test_reading(node, name):
    node("reading.mjs", name)


def test_the_lock_names_no_other_host():
    lock = (node_tools.FOLDER / "package-lock.json").read_text()
    urls = [part.split('"')[0] for part in lock.split('"resolved": "')[1:]]
    assert all(url.startswith("https://registry.npmjs.org/") for url in urls)
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("name", node_tools.scenarios("images.mjs"))
def test_images(node, name):
    node("images.mjs", name)
