"""Speech by a tiny VITS with random weights: the same contract as the voice without weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import VitsConfig, VitsModel, VitsTokenizer

from inference.contracts.voices import NAMED
from inference.models import ModelSpec
from inference.runners.base import Ended, InvalidInput, LoadError, RunnerConfig
from inference.runners.registry import runner_class
from inference.voices import voices_of
from tests import sound
from tests.inference.test_speech_runner import Host

TEXT = "hello there, this is spoken by chance."


def save(folder, *, speakers=1, **tokenizer):
    folder.mkdir()
    letters = ["_", *" abcdefghijklmnopqrstuvwxyz'-,."]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    VitsTokenizer(
        str(vocabulary), pad_token="_", unk_token=None, add_blank=True, normalize=True,
        phonemize=False, **tokenizer,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(7)
    config = VitsConfig(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ffn_dim=32, flow_size=16, spectrogram_bins=9, prior_encoder_num_flows=2,
        prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=2, duration_predictor_filter_channels=16,
        depth_separable_channels=2, upsample_initial_channel=32, upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16], resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]], wavenet_dilation_rate=1, num_speakers=speakers,
        speaker_embedding_size=8 if speakers > 1 else 0, use_stochastic_duration_prediction=False,
        sampling_rate=16_000,
    )  # fmt: skip
    VitsModel(config).eval().save_pretrained(folder)
    return folder


class Neural(Host):
    """The same host over a folder."""

    def __init__(self, folder, **config):
        made = RunnerConfig("m", str(folder), **config)
        self._prepare(runner_class("speech")(made))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    found = Neural(save(tmp_path_factory.mktemp("vits") / "m", speakers=3), slots=2)
    yield found
    found.runner.unload()


@pytest.mark.parametrize("name", sound.FORMATS)
def test_it_speaks_in_every_format(host, name):
    data, end = host.say(TEXT, format=name)
    samples = sound.decoded(data, name)
    assert isinstance(end, Ended)
    assert len(samples) > 1_000
    assert len(samples) / sound.RATE == pytest.approx(end.units.audio_ms / 1000, abs=0.12)
    assert end.units.characters == len(TEXT)


def test_speed_changes_the_length(host):
    usual, fast = (len(host.say(TEXT * 3, speed=speed)[0]) for speed in (1.0, 4.0))
    assert usual / fast == pytest.approx(4, rel=0.25)


def test_openais_voices_are_spread_over_speakers_and_pitches(host):
    voices = [host.runner.speaker.voices[name] for name in NAMED]
    assert len({(voice.speaker, voice.shift) for voice in voices}) == len(NAMED)
    assert {voice.speaker for voice in voices} == {0, 1, 2}
    assert set(host.runner.voice_ids) == {*NAMED, "speaker-0", "speaker-1", "speaker-2"}
    heard = {
        name: sound.brightness(sound.decoded(host.say(TEXT * 2, name)[0], "pcm"))
        for name in ("onyx", "speaker-0", "shimmer")
    }
    assert len(set(heard.values())) == 3


def test_text_without_a_letter_it_knows_is_refused(host):
    _, end = host.say("12 34")
    assert (end.code, end.param) == ("invalid_value", "input")


def test_it_speaks_one_language(host):
    with pytest.raises(InvalidInput) as caught:
        host.submit(TEXT, language="de")
    assert caught.value.param == "language"
    assert isinstance(host.say(TEXT, language="en-US")[1], Ended)


def test_broken_numbers_make_no_noise(host, monkeypatch):
    """NaN in a waveform is silence, not a crash of the encoder."""
    speaker = host.runner.speaker
    model = speaker._model

    class Broken:
        def __call__(self, **inputs):
            found = model(**inputs)
            found.waveform = torch.full_like(found.waveform, float("nan"))
            return found

    monkeypatch.setattr(speaker, "_model", Broken())
    _, end = host.say(TEXT)
    assert end.code == "invalid_value"


def test_the_voices_are_known_before_it_is_loaded(tmp_path):
    folder = save(tmp_path / "m", speakers=2, language="eng")
    spec = ModelSpec(model_id="m", engine="speech", source=str(folder))
    voices = voices_of(spec)
    assert [voice.id for voice in voices][-2:] == ["speaker-0", "speaker-1"]
    assert {voice.language for voice in voices} == {"eng"}
    assert voices_of(ModelSpec(model_id="m", engine="speech", source="not/here")) == ()


def test_what_is_no_voice_is_not_loaded(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    runner = runner_class("speech")(RunnerConfig("m", str(folder)))
    with pytest.raises(LoadError, match="bert"):
        runner.load(lambda fraction, text: None)
    (folder / "model.bin").write_bytes(b"x")
    with pytest.raises(LoadError, match="could carry code"):
        runner.load(lambda fraction, text: None)


def test_the_memory_is_that_of_its_weights(tmp_path):
    folder = save(tmp_path / "m")
    kind = runner_class("speech")
    count = sum(np.prod(p.shape) for p in VitsModel.from_pretrained(folder).parameters())
    estimate = kind.estimate(RunnerConfig("m", str(folder)))
    assert estimate.weights == pytest.approx(4 * count, rel=0.1)
