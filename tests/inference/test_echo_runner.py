"""The echo runner: pace, faults on demand, and that it imports nothing heavy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from inference.contracts.chat import TASK, ChatInput
from inference.runners.base import Busy, Delta, Ended, Failed, InvalidInput, RunnerConfig, Started
from inference.runners.echo import ECHO_TASK, EchoRunner
from tests.inference.recorder import Recorder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def echo():
    made = []

    def make(slots=32, **options):
        runner = EchoRunner(RunnerConfig("echo", "", slots=slots, options=options))
        runner.load(lambda share, text: None)
        recorder = Recorder()
        runner.start(recorder)
        made.append(runner)
        return runner, recorder

    yield make
    for runner in made:
        runner.unload()


def chat(runner, request_id, text="hello there", **settings):
    request = ChatInput([{"role": "user", "content": text}], **settings).as_dict()
    runner.submit(request_id, TASK, request, salt="org")


def test_words_are_counted(echo):
    runner, recorder = echo(tokens=4)
    chat(runner, "one")
    assert recorder.text("one") == "w0 w1 w2 w3 "
    end = recorder.end("one")
    assert (end.reason, end.units.prompt_tokens, end.units.completion_tokens) == ("stop", 2, 4)
    assert [type(one) for one in recorder.by_id["one"]] == [Started, Delta, Ended]


def test_max_tokens_cuts(echo):
    runner, recorder = echo(tokens=4)
    chat(runner, "one", max_tokens=3)
    assert recorder.text("one") == "w0 w1 w2 "
    assert recorder.end("one").reason == "length"


def test_echo_mode_repeats_the_last_user_message(echo):
    runner, recorder = echo(mode="echo", token_ms=1)
    chat(runner, "one", "say it again")
    assert recorder.text("one") == "say it again "
    assert recorder.end("one").units.completion_tokens == 3


def test_all_rows_speak_in_one_list_per_tick(echo):
    runner, recorder = echo(tokens=10, token_ms=20)
    for number in range(20):
        chat(runner, str(number))
    recorder.wait(*map(str, range(20)))
    counts = [sum(isinstance(one, Delta) for one in events) for events in recorder.batches]
    assert sum(counts) == 200
    assert max(counts) == 20
    assert len([count for count in counts if count]) <= 14


def test_the_pace_is_kept(echo):
    runner, recorder = echo(tokens=10, token_ms=20, delay_ms=50)
    began = time.monotonic()
    chat(runner, "one")
    recorder.wait("one")
    assert time.monotonic() - began >= 0.22


def test_slots_bound_what_runs_and_the_line_what_waits(echo):
    runner, recorder = echo(slots=2, tokens=1, delay_ms=100, waiting=3)
    for number in range(2):
        chat(runner, str(number))
    while runner.stats().active < 2:
        time.sleep(0.005)
    for number in range(2, 5):
        chat(runner, str(number))
    assert runner.stats().waiting == 3
    with pytest.raises(Busy):
        chat(runner, "too many")
    recorder.wait(*map(str, range(5)))
    while runner.stats().active:
        time.sleep(0.005)


def test_cancel_at_every_stage(echo):
    runner, recorder = echo(slots=2, tokens=1000, token_ms=5)
    chat(runner, "speaking")
    chat(runner, "delayed", "!slow 60000")
    chat(runner, "waiting")
    recorder.wait_for_delta("speaking")
    for request_id in ("waiting", "delayed", "speaking", "unknown"):
        runner.cancel(request_id)
    for request_id in ("waiting", "delayed", "speaking"):
        assert recorder.end(request_id).reason == "cancelled"
    assert not recorder.started("waiting")
    chat(runner, "next", "!tokens 2")
    assert recorder.text("next") == "w0 w1 "


def test_messages_can_ask_for_faults(echo):
    runner, recorder = echo()
    chat(runner, "bad", "please !error now")
    end = recorder.end("bad")
    assert isinstance(end, Failed)
    assert end.code == "worker_error"
    chat(runner, "long", "!tokens 30")
    assert recorder.end("long").units.completion_tokens == 30
    began = time.monotonic()
    chat(runner, "slow", "!slow 80")
    recorder.wait("slow")
    assert time.monotonic() - began >= 0.08


def test_options_can_ask_for_faults(echo):
    runner, recorder = echo(fault="error")
    chat(runner, "bad")
    assert isinstance(recorder.end("bad"), Failed)


def test_hanging_stops_everything_but_the_rest_of_the_process(echo):
    runner, recorder = echo()
    chat(runner, "hang", "!hang")
    chat(runner, "behind")
    time.sleep(0.1)
    assert not recorder.terminals("behind")
    assert runner.stats().waiting <= 1


def test_unloading_fails_what_is_open(echo):
    runner, recorder = echo(delay_ms=60000)
    chat(runner, "open")
    while not recorder.started("open"):
        time.sleep(0.005)
    runner.unload()
    end = recorder.end("open")
    assert isinstance(end, Failed)
    assert end.retryable
    with pytest.raises(Busy):
        chat(runner, "late")


def test_echo_requests_say_what_comes_back(echo):
    runner, recorder = echo()
    request = {"duration_ms": 30, "units": 7, "result": {"answer": 42}}
    runner.submit("one", ECHO_TASK, request, salt="org")
    end = recorder.end("one")
    assert (end.result, end.units.completion_tokens) == ({"answer": 42}, 7)
    assert end.units.compute_ms >= 30
    runner.submit("two", ECHO_TASK, {"error": "rate_limited", "retryable": True}, salt="org")
    end = recorder.end("two")
    assert (end.code, end.retryable) == ("rate_limited", True)


def test_strange_tasks_and_ids_in_use_are_refused(echo):
    runner, _ = echo(delay_ms=60000)
    with pytest.raises(InvalidInput):
        runner.submit("one", "openai/embeddings", {}, salt="org")
    chat(runner, "one")
    with pytest.raises(ValueError, match="already running"):
        chat(runner, "one")


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )


def test_crash_kills_the_process():
    done = run_python(
        """
        import time
        from inference.contracts.chat import TASK, ChatInput
        from inference.runners.base import RunnerConfig
        from inference.runners.echo import EchoRunner
        runner = EchoRunner(RunnerConfig("echo", ""))
        runner.start(lambda events: None)
        request = ChatInput([{"role": "user", "content": "!crash"}]).as_dict()
        runner.submit("one", TASK, request, salt="")
        time.sleep(30)
        """
    )
    assert done.returncode == -signal.SIGKILL


def test_base_registry_and_echo_import_nothing_heavy():
    done = run_python(
        """
        import sys
        import inference.runners.base, inference.runners.registry, inference.runners.echo
        heavy = {"torch", "transformers", "django", "numpy"} & set(sys.modules)
        sys.exit(str(heavy) if heavy else 0)
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_thousand_streams_are_cheap(echo):
    runner, recorder = echo(slots=1000, tokens=30, token_ms=30, waiting=2000)
    before = time.process_time()
    for number in range(1000):
        chat(runner, str(number))
    recorder.wait(*map(str, range(1000)))
    assert sum(len(events) for events in recorder.batches) == 32_000
    assert time.process_time() - before < 3
