"""The chat engine without anything around it: the same work through ChatRunner in one process.

Reads `{"folder": ..., "slots": ..., "runs": [[concurrency, work], ...]}` from its input and prints
one result per run. Environment as the queue node gives it to a runner.
"""

from __future__ import annotations

import json
import queue
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.chat_load import ChatResult
from benchmarks.chat_model import Work
from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners.base import Delta, Ended, Event, Failed, RunnerConfig
from inference.runners.chat import ChatRunner


def measure(runner: ChatRunner, events: Any, concurrency: int, work: Work) -> ChatResult:
    """A closed loop of `concurrency` requests at a time."""
    result = ChatResult()
    sent: dict[str, float] = {}
    last: dict[str, float] = {}
    left = iter(enumerate(work))
    salt = f"run {time.time()}"

    def submit() -> bool:
        number, (messages, tokens) = next(left, (0, (None, 0)))
        if messages is None:
            return False
        sent[str(number)] = time.perf_counter()
        chat = ChatInput(messages, Sampling(temperature=0.0), max_tokens=tokens)
        runner.submit(str(number), TASK, chat.as_dict(), salt=salt)
        return True

    began = time.perf_counter()
    running = sum(submit() for _ in range(concurrency))
    while running:
        now, batch = events.get()
        for event in batch:
            if isinstance(event, Delta) and event.text:
                before = last.get(event.request_id)
                if before is None:
                    result.first.append((now - sent[event.request_id]) * 1000)
                else:
                    result.gaps.append((now - before) * 1000)
                last[event.request_id] = now
            elif isinstance(event, Ended | Failed):
                wanted = work[int(event.request_id)][1]
                result.failed += event.units.completion_tokens != wanted
                result.tokens += event.units.completion_tokens
                result.prompt_tokens += event.units.prompt_tokens
                running += submit() - 1
    result.seconds = time.perf_counter() - began
    return result


def main() -> None:
    """Load once, warm up, run all."""
    plan = json.load(sys.stdin)
    runner = ChatRunner(RunnerConfig("bench/chat", plan["folder"], slots=plan["slots"]))
    runner.load(lambda share, stage: None)
    events: queue.SimpleQueue[tuple[float, list[Event]]] = queue.SimpleQueue()
    runner.start(lambda batch: events.put((time.perf_counter(), batch)))
    measure(runner, events, 4, plan["runs"][0][1][:4])
    results = [asdict(measure(runner, events, *run)) for run in plan["runs"]]
    runner.unload()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
