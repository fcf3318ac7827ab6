"""The speech that the transcription demo learns from, a small training, and the shipped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

import inference
from inference.demo.text_training import Plan
from inference.demo.transcription_data import (
    FRAMES,
    GERMAN_FRAMES,
    Sentences,
    is_held_out,
    plain_words,
    word_errors,
)
from inference.runners.base import RunnerConfig
from inference.runners.listener import Listener, Wish

WEIGHTS = Path(inference.__file__).parent / "demo" / "weights" / "transcription"
MOST_BYTES = 3_500_000


def test_equal_seeds_draw_equal_sentences():
    def drawn(seed):
        source = Sentences(seed)
        return [source.any() for _ in range(50)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_no_text_of_several_slots_is_on_both_sides():
    def texts(source):
        return {one.text for one in (source.any() for _ in range(2_000))}

    seen, unseen = texts(Sentences(1)), texts(Sentences(2, held_out=True))
    assert not seen & unseen
    assert all(is_held_out(text) for text in unseen)


def test_german_says_what_english_says():
    source = Sentences(5)
    for _ in range(200):
        one = source.german()
        assert "{" not in one.text + one.english
        assert (one.language, one.text != one.english) == ("de", True)
    assert all(english in FRAMES or "{" in english for _, english in GERMAN_FRAMES)


@pytest.mark.parametrize(
    ("wanted", "found", "errors"),
    [
        ("A red car.", "a red car", 0),
        ("A red car.", "a rad car", 1),
        ("A red car.", "", 3),
        ("A red car.", "a very red car", 1),
        ("Die Tür, bitte!", "die tür bitte", 0),
    ],
)
def test_errors_are_counted_in_words(wanted, found, errors):
    assert word_errors(wanted, found) == (errors, 3)


def test_words_are_compared_bare():
    assert plain_words("Hello, WORLD - it's 5!") == ["hello", "world", "it", "s", "5"]


def test_clips_are_windows_with_speech_in_its_place():
    pytest.importorskip("espeakng_loader")
    from inference.demo.transcription_sound import SAMPLE_RATE, WINDOW, Clips, Speaker

    source = Sentences(1)
    clips = Clips(source, Speaker(source.draw))
    for _ in range(20):
        clip = clips.clip()
        assert 0 < len(clip.samples) <= WINDOW
        assert np.abs(clip.samples).max() <= 1
        for part in clip.parts:
            inside = clip.samples[int(part.start * SAMPLE_RATE) : int(part.end * SAMPLE_RATE)]
            assert np.abs(inside).max() > 0.1


@pytest.mark.slow
def test_a_few_steps_learn(tmp_path):
    pytest.importorskip("espeakng_loader")
    from inference.demo import train_transcription

    plan = Plan(steps=60, rows=4, corpus=8)
    model, processor, losses = train_transcription.train(plan)
    assert sum(losses[-10:]) < sum(losses[:10])
    train_transcription.save(model, processor, tmp_path)
    ears = Listener(RunnerConfig("m", str(tmp_path), dtype="float32"))
    assert (ears.seconds, ears.languages) == (6.0, ["de", "en"])


def unheard(language: str, seed: int = 11, count: int = 24) -> list[tuple[str, np.ndarray]]:
    """Sentences that training left out, in voices that it left out."""
    pytest.importorskip("espeakng_loader")
    from inference.demo.transcription_sound import UNHEARD, Clips, Speaker

    source = Sentences(seed, held_out=True)
    clips = Clips(source, Speaker(source.draw, variants=UNHEARD))
    found = []
    while len(found) < count:
        sentence = source.english() if language == "en" else source.german()
        clip = clips.spoken([sentence])
        if clip is not None:
            found.append((sentence.text, (clip.samples * 32_000).astype("<i2")))
    return found


@pytest.fixture(scope="module")
def spoken():
    return unheard("en")


def test_the_shipped_weights_are_small_and_safe():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < MOST_BYTES
    assert {file.suffix for file in WEIGHTS.iterdir()} == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_shipped_weights_hear_unknown_voices(language):
    spoken = unheard(language)
    ears = Listener(RunnerConfig("m", str(WEIGHTS), dtype="float32"))
    heard = ears.hear([Wish(samples) for _, samples in spoken])
    counted = [word_errors(text, one.text) for (text, _), one in zip(spoken, heard, strict=True)]
    assert sum(wrong for wrong, _ in counted) <= 0.1 * sum(words for _, words in counted)
    assert {one.language for one in heard} == {language}


def test_transformers_own_way_writes_the_same(spoken):
    ears = Listener(RunnerConfig("m", str(WEIGHTS), dtype="float32"))
    processor = WhisperProcessor.from_pretrained(WEIGHTS)
    model = WhisperForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    for _, samples in spoken[:6]:
        heard = ears.hear([Wish(samples, "en", temperature=0.0)])[0]
        wave = samples.astype(np.float32) / 32768
        inputs = processor(wave, sampling_rate=16_000, return_tensors="pt").input_features
        tokens = model.generate(inputs, language="en", task="transcribe", return_timestamps=True)
        text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
        assert heard.text == text.strip()
