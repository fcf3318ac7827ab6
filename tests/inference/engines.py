"""What tests give to a TokenEngine, and what they read from it."""

from __future__ import annotations

from inference.contracts.chat import Sampling
from inference.runners.answers import PlainAnswer
from inference.runners.base import Delta
from inference.runners.generation import Generation, Stem
from inference.runners.prefix_cache import chain_seed
from inference.runners.sampling import Choice, SamplingDefaults, penalties_for
from inference.runners.text import TextStream
from tests.inference.recorder import Recorder


class Numbers:
    """Shows token ids as text, so that tests can compare tokens."""

    def push(self, token):
        return f"{token} "


SAMPLING = frozenset(Sampling.__dataclass_fields__)


def generation(
    request_id, prompt, limit=20, *, stop=(), text=None, bias=None, org="", stream=0, **settings
):
    """One choice; settings are those of Sampling and of Generation. `org` shares its prefix."""
    chosen = {key: settings.pop(key) for key in SAMPLING & settings.keys() if key != "seed"}
    sampling = Sampling(**{"temperature": 0.0, "seed": settings.pop("seed", None), **chosen})
    defaults = SamplingDefaults()
    return Generation(
        request_id=request_id,
        prompt=prompt,
        limit=limit,
        choice=Choice(sampling, defaults, stream),
        answer=PlainAnswer(text or TextStream(Numbers(), stop)),
        processors=penalties_for(sampling, defaults, prompt, bias),
        seed=chain_seed(org) if org else b"",
        **settings,
    )


def choices(request_id, prompts, n, limit=20, **settings):
    """The choices of one request, `n` for each prompt."""
    made = []
    for prompt in prompts:
        stem = Stem(n - 1) if n > 1 else None
        first = len(made)
        made += [
            generation(
                request_id,
                prompt,
                limit,
                index=first + stream,
                stem=stem,
                follows=stream > 0,
                stream=stream,
                **settings,
            )
            for stream in range(n)
        ]
    return made


def started(engine, on_events=None):
    recorder = Recorder(on_events)
    engine.start(recorder)
    return recorder


def tokens_of(recorder, request_id, choice=None):
    """The tokens of an answer made of Numbers; of one choice or of all."""
    recorder.wait(request_id)
    deltas = [one for one in recorder.by_id[request_id] if isinstance(one, Delta)]
    wanted = [one.text for one in deltas if choice is None or one.choice == choice]
    return [int(number) for number in "".join(wanted).split()]
