"""Collects a Runner's events and waits for terminal ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from inference.runners.base import Delta, Ended, Event, Failed, Started


class Recorder:
    def __init__(self, on_events: Callable[[list[Event]], None] | None = None) -> None:
        self.batches: list[list[Event]] = []
        self.by_id: dict[str, list[Event]] = {}
        self.on_events = on_events
        self._changed = threading.Condition()

    def __call__(self, events: list[Event]) -> None:
        with self._changed:
            self.batches.append(events)
            for event in events:
                self.by_id.setdefault(event.request_id, []).append(event)
            self._changed.notify_all()
        if self.on_events is not None:
            self.on_events(events)

    def terminals(self, request_id: str) -> list[Ended | Failed]:
        events = self.by_id.get(request_id, [])
        return [event for event in events if isinstance(event, Ended | Failed)]

    def wait(self, *request_ids: str, timeout: float = 60.0) -> None:
        until = time.monotonic() + timeout
        with self._changed:
            while not all(self.terminals(one) for one in request_ids):
                left = until - time.monotonic()
                assert left > 0, "no terminal event in time"
                self._changed.wait(left)

    def wait_for(self, request_id: str, kind: type, count: int = 1) -> None:
        def found() -> bool:
            events = self.by_id.get(request_id, [])
            return sum(isinstance(one, kind) for one in events) >= count

        with self._changed:
            assert self._changed.wait_for(found, 60.0), f"no {count} {kind.__name__} in time"

    def wait_for_delta(self, request_id: str, timeout: float = 60.0) -> None:
        until = time.monotonic() + timeout
        with self._changed:
            while not any(isinstance(one, Delta) for one in self.by_id.get(request_id, [])):
                left = until - time.monotonic()
                assert left > 0, "no delta in time"
                self._changed.wait(left)

    def end(self, request_id: str) -> Ended | Failed:
        self.wait(request_id)
        (event,) = self.terminals(request_id)
        return event

    def text(self, request_id: str) -> str:
        self.wait(request_id)
        return "".join(one.text for one in self.by_id[request_id] if isinstance(one, Delta))

    def started(self, request_id: str) -> bool:
        return any(isinstance(one, Started) for one in self.by_id.get(request_id, []))
