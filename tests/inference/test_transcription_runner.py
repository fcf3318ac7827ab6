"""The Runner of Whisper models: many windows of many requests at once, each with its own wishes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inference.contracts import transcription, translation
from inference.runners.base import Ended, InvalidInput, LoadError, RunnerConfig
from inference.runners.listener import Wish, compression
from inference.runners.transcription import Teller, TranscriptionRunner
from tests.inference.recorder import Recorder
from tests.inference.tiny_whisper import save_whisper

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def runner(folder):
    found = TranscriptionRunner(config(folder))
    found.load(lambda share, word: None)
    yield found
    found.unload()


@pytest.fixture(scope="module")
def seen(runner):
    recorder = Recorder()
    runner.start(recorder)
    return recorder


def config(folder, **options):
    return RunnerConfig("m", str(folder), dtype="float32", options=options)


def hum(*parts: float, seed=1) -> np.ndarray:
    """Noise of so many seconds, with four seconds of silence between."""
    chance = np.random.default_rng(seed)
    found = []
    for seconds in parts:
        found += [np.zeros(4 * RATE), chance.standard_normal(int(seconds * RATE)) * 3000]
    return np.concatenate(found[1:]).astype("<i2")


def ask(*parts: float, seed=1, **fields):
    return {"temperature": 0.0, "samples": hum(*(parts or (1.0,)), seed=seed), **fields}


def read(ended: Ended) -> dict:
    return transcription.unpacked(ended.result)


def test_its_memory_is_known_before(folder, runner):
    before = TranscriptionRunner.estimate(config(folder))
    assert before.weights > 0
    assert before.workspace > 0
    assert runner.describe() == "batch, windows of 30 s"


def test_windows_of_many_requests_are_heard_as_if_alone(runner, seen):
    wishes = {
        "one": ask(1.0),
        "two": ask(2.0, 1.5, seed=2, language="de"),
        "prompted": ask(1.0, prompt="Casola, Wien"),
        "words": ask(1.0, seed=3, words=True),
    }
    for name, wish in wishes.items():
        runner.submit(f"alone-{name}", transcription.TASK, wish, salt="a")
        seen.wait(f"alone-{name}")
    for name, wish in wishes.items():
        runner.submit(f"together-{name}", transcription.TASK, wish, salt=name)
    for name in wishes:
        alone, together = seen.end(f"alone-{name}"), seen.end(f"together-{name}")
        assert read(alone) == read(together), name
    assert read(seen.end("alone-one")) != read(seen.end("alone-prompted"))
    assert read(seen.end("alone-two"))["language"] == "de"


def test_times_go_on_from_window_to_window(runner, seen):
    runner.submit("long", transcription.TASK, ask(2.0, 2.0, 31.0), salt="a")
    ended = seen.end("long")
    found = read(ended)
    assert found["duration"] == 43.0
    assert ended.units.audio_ms == 43_000
    assert ended.units.prompt_tokens == 0
    begins = [segment["start"] for segment in found["segments"]]
    assert begins == sorted(begins)
    assert all(one["start"] <= one["end"] <= 43.0 for one in found["segments"])
    assert {one["seek"] for one in found["segments"]} <= {0, 584, 1184, *range(2900, 4300)}


def test_a_stream_tells_windows_in_their_order(runner, seen):
    runner.submit("stream", transcription.TASK, ask(1.0, 1.0, 1.0, stream=True), salt="a")
    ended = seen.end("stream")
    assert seen.text("stream") == read(ended)["text"]
    runner.submit("whole", transcription.TASK, ask(1.0, 1.0, 1.0), salt="a")
    assert read(seen.end("whole")) == read(ended)
    assert seen.text("whole") == ""


def test_silence_is_nothing(runner, seen):
    wish = {"samples": np.zeros(RATE * 5, "<i2")}
    runner.submit("silence", transcription.TASK, wish, salt="a")
    ended = seen.end("silence")
    assert read(ended) == {
        "language": "en",
        "duration": 5.0,
        "text": "",
        "segments": [],
        "words": [],
    }
    assert ended.units.audio_ms == 5_000


def test_words_lie_within_the_sound(runner, seen):
    runner.submit("timed", transcription.TASK, ask(2.0, words=True), salt="a")
    found = read(seen.end("timed"))
    assert found["words"]
    assert all(0 <= word["start"] <= word["end"] <= 2.0 for word in found["words"])


def test_translation_is_another_task_of_the_same_batch(runner, seen):
    runner.submit("de", translation.TASK, ask(1.0), salt="a")
    assert isinstance(seen.end("de"), Ended)


def test_cancelling_charges_what_was_heard(runner, seen):
    runner.submit("much", transcription.TASK, ask(*[1.0] * 60), salt="a")
    runner.cancel("much")
    ended = seen.end("much")
    assert ended.reason == "cancelled"
    assert ended.units.audio_ms < 296_000
    assert runner.stats().waiting == 0


@pytest.mark.parametrize(("language", "code"), [("DE", "de"), ("german", "de"), ("zh-CN", "zh")])
def test_languages_are_known_by_tag_and_name(runner, language, code):
    assert runner._language(language) == code


def test_other_languages_are_refused(runner):
    with pytest.raises(InvalidInput) as refusal:
        runner.submit("fr", transcription.TASK, ask(language="fr"), salt="a")
    assert str(refusal.value) == "The model does not know 'fr'; it knows de, en, zh"
    assert refusal.value.param == "language"


def test_a_prompt_is_never_a_mark(runner):
    known = runner._prompt("<|translate|> a<|endoftext|>")
    assert max(known) < runner._ears.first_mark
    assert len(runner._prompt("x" * 4_000)) == runner._ears.longest_prompt


def test_a_teller_parts_windows_by_a_space(runner):
    heard = runner._ears.hear([Wish(hum(1.0), "en", temperature=0.0)])[0]
    tell = Teller()
    assert [tell(heard), tell(heard)] == [heard.text, f" {heard.text}"]


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(LoadError, match="'bert' cannot transcribe"):
        TranscriptionRunner(config(tmp_path)).load(lambda share, word: None)


def test_what_repeats_itself_compresses_well():
    assert compression("") == 0.0
    assert compression("la " * 100) > 10
