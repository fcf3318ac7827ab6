"""What tests give to a TokenEngine, and what they read from it."""

from __future__ import annotations

from inference.contracts.chat import Sampling
from inference.runners.answers import PlainAnswer
from inference.runners.generation import Generation
from inference.runners.prefix_cache import chain_seed
from inference.runners.sampling import Choice, SamplingDefaults, penalties_for
from inference.runners.text import TextStream
from tests.inference.recorder import Recorder


class Numbers:
    """Shows token ids as text, so that tests can compare tokens."""

    def push(self, token):
        return f"{token} "


OWN_FIELDS = ("ignore_eos", "open_ended", "stem", "index", "follows")


def generation(request_id, prompt, limit=20, *, stop=(), text=None, seed_of="", **settings):
    extra = {key: settings.pop(key) for key in OWN_FIELDS if key in settings}
    sampling = Sampling(**{"temperature": 0.0, **settings})
    defaults = SamplingDefaults()
    return Generation(
        request_id=request_id,
        prompt=prompt,
        limit=limit,
        choice=Choice(sampling, defaults),
        answer=PlainAnswer(text or TextStream(Numbers(), stop)),
        processors=penalties_for(sampling, defaults, prompt),
        seed=chain_seed(seed_of) if seed_of else b"",
        **extra,
    )


def started(engine, on_events=None):
    recorder = Recorder(on_events)
    engine.start(recorder)
    return recorder


def tokens_of(recorder, request_id):
    return [int(number) for number in recorder.text(request_id).split()]
