"""Text to speech by espeak-ng: voices, formats, speeds, odd texts, cancelling, errors."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time

import pytest

from inference.contracts.speech import TASK
from inference.contracts.voices import NAMED
from inference.runners.base import Busy, Chunk, Ended, Failed, InvalidInput, RunnerConfig, Started
from inference.runners.registry import runner_class
from tests import sound

TEXT = "Hello, welcome to Casola! This is how it sounds."
LONG = "One sentence after another is read here. " * 99


def close(one: bytes, other: bytes) -> bool:
    """Whether two PCM sounds are as long and loud as each other; espeak-ng is never quite exact."""
    first, second = (sound.decoded(data, "pcm") for data in (one, other))
    same = abs(len(first) - len(second)) < 0.05 * len(first)
    return same and abs(sound.loudness(first) / sound.loudness(second) - 1) < 0.05


class Host:
    """Submits and collects."""

    def __init__(self, **config):
        self._prepare(runner_class("speech")(RunnerConfig("m", "espeak-ng", **config)))

    def _prepare(self, runner):
        self.runner = runner
        self.runner.load(lambda fraction, text: None)
        self.events: dict[str, list] = {}
        self.news = threading.Condition()
        self.numbers = itertools.count()
        self.runner.start(self._emit)

    def _emit(self, events):
        with self.news:
            for event in events:
                self.events.setdefault(event.request_id, []).append(event)
            self.news.notify_all()

    def submit(self, text=TEXT, voice="alloy", **wishes) -> str:
        name = f"r{next(self.numbers)}"
        request = {"text": text, "voice": voice, "format": "pcm", **wishes}
        self.runner.submit(name, TASK, request, salt="org")
        return name

    def wait(self, name: str, kinds=(Ended, Failed), seconds=60):
        with self.news:
            done = self.news.wait_for(
                lambda: any(isinstance(event, kinds) for event in self.events.get(name, [])),
                seconds,
            )
        assert done, f"{name} did not come to {kinds}"
        return self.events[name]

    def say(self, *arguments, **wishes):
        """(bytes, last event)."""
        events = self.wait(self.submit(*arguments, **wishes))
        data = b"".join(event.data for event in events if isinstance(event, Chunk))
        last = events[-1]
        if isinstance(last, Ended) and last.media:
            with last.media[0].content as file:
                data += file.read()
        return data, last

    def refusal(self, text: str) -> tuple[str, str | None]:
        """Code and param of a text that is refused, at once or when it was tried."""
        try:
            _, end = self.say(text)
        except InvalidInput as error:
            return error.code, error.param
        return end.code, end.param


@pytest.fixture(scope="module")
def host():
    pytest.importorskip("espeakng_loader")
    found = Host(slots=4)
    yield found
    found.runner.unload()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", sound.FORMATS)
def test_every_format_comes_back_as_the_same_sound(host, name, stream):
    data, end = host.say(format=name, stream=stream)
    assert data.startswith(sound.FORMATS[name][1])
    samples = sound.decoded(data, name)
    assert sound.loudness(samples) > 0.02
    assert len(samples) / sound.RATE == pytest.approx(end.units.audio_ms / 1000, abs=0.12)
    plain, _ = host.say()
    assert len(samples) / sound.RATE == pytest.approx(len(plain) / 48_000, abs=0.12)
    assert end.units.characters == len(TEXT)
    assert end.reason == "stop"


def test_a_finished_file_knows_its_length(host):
    data, _ = host.say(format="wav")
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    streamed, _ = host.say(format="wav", stream=True)
    assert int.from_bytes(streamed[4:8], "little") == 0xFFFFFFFF


def test_openais_voices_are_each_their_own(host):
    """Every two of them differ in pitch by 6 % or in the colour of the sound by 8 %."""
    heard = {}
    for voice in NAMED:
        data, _ = host.say(TEXT, voice)
        samples = sound.decoded(data, "pcm")
        heard[voice] = sound.pitch(samples), sound.brightness(samples)
    for one, other in itertools.combinations(heard, 2):
        apart = [abs(a - b) / max(a, b) for a, b in zip(heard[one], heard[other], strict=True)]
        assert apart[0] > 0.06 or apart[1] > 0.08, (one, heard[one], other, heard[other])
    assert heard["onyx"][0] < heard["alloy"][0] < heard["shimmer"][0]


def test_voice_names_know_no_case(host):
    assert close(host.say(TEXT, "Alloy")[0], host.say(TEXT, "alloy")[0])


def test_all_voices_speak(host):
    for voice in host.runner.voice_ids:
        data, _ = host.say("1, 2, 3.", voice)
        assert sound.loudness(sound.decoded(data, "pcm")) > 0.01, voice


def test_a_named_voice_speaks_other_languages(host):
    english, _ = host.say("Guten Morgen, wie geht es Ihnen?", "onyx")
    german, _ = host.say("Guten Morgen, wie geht es Ihnen?", "onyx", language="de")
    austrian, _ = host.say("Guten Morgen, wie geht es Ihnen?", "onyx", language="de-AT")
    assert not close(german, english)
    assert close(austrian, german)
    high, low = (sound.pitch(sound.decoded(host.say(TEXT, v, language="de")[0], "pcm"))
                 for v in ("nova", "onyx"))  # fmt: skip
    assert high > 1.5 * low
    with pytest.raises(InvalidInput) as caught:
        host.submit(TEXT, "onyx", language="tlh")
    assert caught.value.param == "language"


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.7, 1.5, 2.5, 4.0])
def test_speed_shortens_and_lengthens(host, speed):
    """espeak-ng's own rate is not exact; its pauses shrink less than its words."""
    usual, _ = host.say(LONG[:400])
    changed, _ = host.say(LONG[:400], speed=speed)
    assert len(usual) / len(changed) == pytest.approx(speed, rel=0.2)
    before, after = (sound.pitch(sound.decoded(data, "pcm")) for data in (usual, changed))
    assert after == pytest.approx(before, rel=0.12)


@pytest.mark.parametrize(
    "text",
    ["😀", "👩‍👩‍👧", "1234567890" * 20, "日本語", "a\x01b", "\x01+50Phello", "<speak>hi</speak>",
     "[[h@loU]]", "é" * 3, "x" * 4096, "word\u202ereversed", "\ufeffmark", "5 < 6 & 7"],
)  # fmt: skip
def test_odd_texts_are_spoken(host, text):
    data, end = host.say(text)
    assert isinstance(end, Ended), end
    assert sound.loudness(sound.decoded(data, "pcm")) > 0.005
    assert end.units.characters == len(text)


def test_marks_of_engines_and_markup_mean_nothing(host):
    """Commands in the text neither change the voice nor make pauses."""
    assert close(host.say("\x01+90P hello")[0], host.say(" +90P hello")[0])
    pause, _ = host.say('<speak>hi <break time="9s"/> there</speak>')
    assert sound.seconds(pause, "pcm") < 9


@pytest.mark.parametrize("text", ["...", " \n ", "\u200b", "\x01", "—", "\u200b\u2060"])
def test_what_cannot_be_spoken_is_refused(host, text):
    assert host.refusal(text) == ("invalid_value", "input")


@pytest.mark.parametrize(
    ("wishes", "param"),
    [
        ({"voice": "nobody"}, "voice"),
        ({"format": "mp5"}, "response_format"),
        ({"text": "x" * 4097}, "input"),
    ],
)
def test_wrong_wishes_are_refused(host, wishes, param):
    with pytest.raises(InvalidInput) as caught:
        host.submit(**wishes)
    assert caught.value.param == param


def test_long_texts_come_in_pieces_and_count_in_full(host):
    name = host.submit(LONG, stream=True, speed=2.0)
    events = host.wait(name)
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert len(chunks) > 10
    counts = [event.units.characters for event in chunks]
    assert counts == sorted(counts)
    assert events[-1].units.characters == len(LONG)
    assert isinstance(events[0], Started)


def test_speech_that_would_never_end_is_refused(host):
    _, end = host.say("😀 " * 2048, speed=0.25)
    assert (type(end), end.param) == (Failed, "input")
    assert "30 minutes" in end.message


def test_a_cancelled_request_ends_within_a_piece(host):
    name = host.submit(LONG, speed=0.25, format="mp3", stream=True)
    host.wait(name, (Chunk,))
    began = time.monotonic()
    host.runner.cancel(name)
    end = host.wait(name)[-1]
    assert time.monotonic() - began < 5
    assert (type(end), end.reason) == (Ended, "cancelled")
    assert 0 < end.units.characters < len(LONG)
    assert end.units.audio_ms > 0
    host.runner.cancel(name)
    assert host.say()[1].reason == "stop"


def test_a_short_text_does_not_wait_for_a_long_one(host):
    names = [host.submit(LONG, speed=0.25) for _ in range(3)]
    host.wait(names[-1], (Chunk, Started))
    end = host.wait(host.submit("Quick."))[-1]
    assert isinstance(end, Ended)
    with host.news:
        assert not any(isinstance(host.events[name][-1], Ended) for name in names)
    for name in names:
        host.runner.cancel(name)
        host.wait(name)


def test_an_error_ends_one_request_only(host, monkeypatch):
    speaker, spoken = host.runner.speaker, host.runner.speaker.say

    def say(text, *arguments, **wishes):
        if "broken" in text:
            raise RuntimeError("inside")
        spoken(text, *arguments, **wishes)

    monkeypatch.setattr(speaker, "say", say)
    good, bad = host.submit(LONG), host.submit("This is broken.")
    end = host.wait(bad)[-1]
    assert (type(end), end.code) == (Failed, "worker_error")
    assert "inside" not in end.message
    assert isinstance(host.wait(good)[-1], Ended)


def test_two_runners_of_one_process_share_the_one_engine(host):
    other = Host(slots=2)
    names = [(each, each.submit(LONG[:800])) for each in (host, other) for _ in range(2)]
    ends = [each.wait(name)[-1] for each, name in names]
    lengths = [end.units.audio_ms for end in ends]
    assert max(lengths) - min(lengths) < 0.02 * max(lengths)
    other.runner.unload()


def test_an_unloaded_runner_takes_nothing(host):
    other = Host()
    other.runner.unload()
    with pytest.raises(Busy):
        other.submit()


def test_previews_are_mp3(host):
    data = host.runner.preview("de-female")
    assert 0.5 < sound.seconds(data, "mp3") < 5


@pytest.mark.parametrize("loader", [True, False])
def test_the_process_stays_small_and_says_what_it_lacks(loader):
    """Neither torch nor numpy is loaded; without the package the reason is given."""
    hidden = "" if loader else "sys.modules['espeakng_loader'] = None;"
    code = (
        f"import sys; {hidden}"
        "from inference.runners.base import RunnerConfig, LoadError;"
        "from inference.runners.registry import runner_class;"
        "runner = runner_class('speech')(RunnerConfig('m', 'espeak-ng'))\n"
        "try: runner.load(lambda *a: None)\n"
        "except LoadError as error: print(error)\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    missing = [] if loader else ["the package espeakng-loader is not installed"]
    assert done.stdout.splitlines() == [*missing, "[]"]
