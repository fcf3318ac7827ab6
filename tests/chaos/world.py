"""A Casola to be killed, the clients that load it, and the hand that kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from tests.chaos.checker import Journal, Seen, violations
from tests.live import CHAT, Live, wait_until

ECHO = "test/echo"
TOKEN_MS = 20
BUDGETS = """
from decimal import Decimal
from accounts.actors import SYSTEM
from accounts.models import Organization
from accounts.services import change_budget
from casola_site.core.budgets import Budget, BudgetPeriod
from casola_site.core.clock import now
budget = Budget(Decimal(10**9), BudgetPeriod.NEVER)
for row in Organization.objects.all():
    change_budget(organization=row, budget=budget, by=SYSTEM, now=now())
"""
PRICE = "INSERT INTO usage_price (model_id, unit, amount, per, currency, valid_from) VALUES "


@dataclass
class World(Live):
    """A Live with the stub model only, at 20 ms a token and 1 USD per token, and a Journal.

    Every organization has a budget that suffices, so that all that happens is counted.
    """

    slots: int = 1024

    def prepare(self) -> None:
        self.journal = Journal()
        self.clients = ThreadPoolExecutor(max_workers=256)
        with self.database() as connection:
            connection.execute(
                "UPDATE inference_modelspec SET enabled = (model_id = %s), options = %s, slots = %s",
                [ECHO, json.dumps({"token_ms": TOKEN_MS}), self.slots],
            )
            connection.execute(
                PRICE + "(%s, 'completion_tokens', 1, 1, 'USD', now() - interval '1 day')", [ECHO]
            )
        self.python(BUDGETS)

    def start(self) -> World:
        self.var_dir.mkdir(parents=True, exist_ok=True)
        self.port = self.port or _port()
        self.environment.setdefault("CASOLA_CHAOS", uuid.uuid4().hex)
        self.manage("migrate", "-v0")
        self.manage("ensure_demo")
        self.prepare()
        self.start_process("web", "web")
        self.start_process("gpu", "qnode", f"gpu-{self.node}")
        self.wait_ready()
        return self

    def finish(self) -> None:
        """Stop, and show that no process is left."""
        self.clients.shutdown(wait=False, cancel_futures=True)
        self.stop()
        assert wait_until(lambda: not self.left(), seconds=5, what="the end of every process")

    def left(self) -> list[int]:
        """Processes that carry this world's mark."""
        mark = f"CASOLA_CHAOS={self.environment['CASOLA_CHAOS']}".encode()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if mark in environ and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def organizations(self, number: int) -> list[str]:
        """Secrets of new organizations' admins; one start of Django for all."""
        code = (
            "from django.core.management import call_command\n"
            f"for n in range({number}):\n"
            "    call_command('create_organization', '--name', f'Org {n}', '--plan', 'unlimited',"
            " '--owner-email', f'owner{n}@example.com')\n" + BUDGETS
        )
        return [json.loads(line)["secret"] for line in self.python(code).splitlines()]

    # -- the tables ---------------------------------------------------------------------------

    def database(self) -> psycopg.Connection:
        return psycopg.connect(self.database_url, autocommit=True, connect_timeout=3)

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with self.database() as connection:
            return connection.execute(sql, list(arguments) or None).fetchall()

    def row(self, job_id: str) -> dict[str, Any] | None:
        """The Job's row and its usage record."""
        with self.database() as connection:
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            return cursor.execute(
                "SELECT job.*, usage.amount, usage.completion_tokens, usage.status AS usage_status"
                " FROM jobs_job job LEFT JOIN usage_usagerecord usage ON usage.job_id = %s"
                " WHERE job.id = %s",
                [job_id, job_id],
            ).fetchone()

    def wait_row(self, job_id: str, seconds: float = 10) -> dict[str, Any]:
        """The row once the Job has ended."""

        def ended() -> dict[str, Any] | None:
            found = self.row(job_id)
            return found if found and found["usage_status"] else None

        return wait_until(ended, seconds=seconds, what=f"the end of {job_id}")

    def runner(self) -> tuple[int, int]:
        """(row, process) of the newest live Runner."""
        rows = wait_until(
            lambda: self.query("SELECT id, pid FROM jobs_runner WHERE state = 'live' ORDER BY id"),
            seconds=20,
            what="a live runner",
        )
        return rows[-1]

    def new_runner(self, old: int, seconds: float = 20) -> tuple[int, int]:
        """The Runner that took the place of `old`."""
        rows = wait_until(
            lambda: self.query(
                "SELECT id, pid FROM jobs_runner WHERE state = 'live' AND id > %s", old
            ),
            seconds=seconds,
            what="another runner",
        )
        return rows[-1]

    def kill_runner(self, number: int = signal.SIGKILL) -> int:
        """Signal the newest live Runner's process; returns its row's id."""
        pk, pid = self.runner()
        os.kill(pid, number)
        return pk

    def quiet(self, seconds: float = 20) -> None:
        """Wait until no Job is under way."""
        sql = "SELECT count(*) FROM jobs_job WHERE status IN ('pending', 'processing')"
        wait_until(lambda: self.query(sql)[0][0] == 0, seconds=seconds, what="quiet")

    def release_abandoned(self) -> int:
        """What the nodes do once nobody can be working on it any more; then nothing is reserved."""
        self.python(
            "from datetime import timedelta; from casola_site.core.clock import now\n"
            "from jobs.housekeeping import release_abandoned\n"
            "release_abandoned(now=now() + timedelta(days=1))"
        )
        return self.query("SELECT count(*) FROM usage_budgetreservation")[0][0]

    def check(self) -> None:
        """All promises hold; the next test begins with a fresh Journal."""
        self.quiet()
        found = violations(self.query, self.journal)
        self.journal = Journal()
        assert not found, "\n".join(found)

    # -- clients ------------------------------------------------------------------------------

    def in_background(
        self, function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Future:
        return self.clients.submit(function, *arguments, **options)

    def ask(self, text: str = "hi", **options: Any) -> Seen:
        """One answer without a stream, noted in the Journal."""
        seen = Seen(began=time.monotonic())
        try:
            answer = self.chat(text, **options)
        except httpx.HTTPError as error:
            seen.failure = repr(error)
        else:
            _read_whole(seen, answer)
        return self._note(seen)

    def stream(self, tokens: int = 16, key: str | None = None, text: str = "") -> Seen:
        """One stream read to its end, noted in the Journal."""
        with self.open_stream(tokens, key, text) as stream:
            return stream.read()

    def open_stream(self, tokens: int = 16, key: str | None = None, text: str = "") -> Stream:
        """A stream to be read later; also a context that closes it."""
        body = {
            "model": ECHO,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": f"!tokens {tokens} {text}"}],
        }
        return Stream(self, body, key).open()

    def submit(self, key: str | None = None, retries: int = 0, **task: Any) -> str:
        """A persisted Job of the stub Task; noted when it was accepted."""
        idempotency = uuid.uuid4().hex
        body = {"model_id": ECHO, "task": ECHO, "input": task}
        for left in range(retries, -1, -1):
            try:
                answer = self.post("/api/jobs", body, key, headers={"Idempotency-Key": idempotency})
            except httpx.HTTPError:
                if not left:
                    raise
                time.sleep(0.3)
                continue
            self.journal.status(answer.status_code)
            if answer.status_code == 201:
                self.journal.accept(answer.json()["id"], idempotency)
                return answer.json()["id"]
            assert answer.status_code != 500, answer.text
            if not left:
                raise AssertionError(f"{answer.status_code} {answer.text}")
            time.sleep(0.5)
        raise AssertionError

    def _note(self, seen: Seen) -> Seen:
        seen.ended = time.monotonic()
        self.journal.answer(seen)
        return seen

    # -- processes ----------------------------------------------------------------------------

    def web_workers(self) -> list[psutil.Process]:
        return psutil.Process(self.processes["web"].pid).children()

    def sentinel(self) -> psutil.Process:
        return psutil.Process(self.processes["gpu"].pid).children()[0]

    def supervise(self, name: str, *arguments: str, seconds: float = 15) -> int:
        """What a supervisor does when a process has ended: start it again."""
        code = self.processes[name].wait(seconds)
        self.start_process(name, *arguments)
        return code

    def log(self, name: str) -> str:
        return (self.var_dir / f"{name}.log").read_text(errors="replace")


class Stream:
    """A streamed answer that is read, or left."""

    def __init__(self, world: World, body: dict[str, Any], key: str | None) -> None:
        self.world = world
        self.seen = Seen(began=time.monotonic())
        self.client = httpx.Client(timeout=httpx.Timeout(30, read=30))
        self.request = self.client.build_request(
            "POST", world.url + CHAT, json=body, headers=world.headers(key)
        )
        self.response: httpx.Response | None = None
        self._lines: Iterator[str] = iter(())
        self._noted = False

    def open(self) -> Stream:
        try:
            self.response = self.client.send(self.request, stream=True)
        except httpx.HTTPError as error:
            self.seen.failure = repr(error)
            return self
        self.seen.status = self.response.status_code
        self.seen.job_id = self.response.headers.get("x-casola-job-id", "")
        if self.response.status_code != 200:
            self.response.read()
            _read_whole(self.seen, self.response)
        else:
            self._lines = self.response.iter_lines()
        return self

    @property
    def port(self) -> int:
        """The client's end of the connection."""
        return self.response.extensions["network_stream"].get_extra_info("client_addr")[1]

    def read(self, words: int | None = None) -> Seen:
        """So many words, or to the end."""
        try:
            for line in self._lines:
                if line.startswith("data: "):
                    self._take(line.removeprefix("data: "))
                if words is not None and len(self.seen.text.split()) >= words:
                    return self.seen
        except httpx.HTTPError as error:
            self.seen.failure = repr(error)
        if words is None and not self._noted:
            self._noted = True
            self.world._note(self.seen)
        return self.seen

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.seen.is_done = True
            return
        event = json.loads(data)
        if "error" in event:
            self.seen.error = event["error"]
            return
        for choice in event["choices"]:
            self.seen.text += choice["delta"].get("content") or ""
            self.seen.reason = choice["finish_reason"] or self.seen.reason
        if event.get("usage"):
            self.seen.tokens = event["usage"]["completion_tokens"]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.response is not None:
            self.response.close()
        self.client.close()


def _read_whole(seen: Seen, answer: httpx.Response) -> None:
    seen.status = answer.status_code
    seen.job_id = answer.headers.get("x-casola-job-id", "")
    seen.retry_after = answer.headers.get("retry-after")
    body = answer.json()
    seen.error = body.get("error")
    if answer.status_code == 200:
        seen.text = body["choices"][0]["message"]["content"]
        seen.reason = body["choices"][0]["finish_reason"]
        seen.tokens = body["usage"]["completion_tokens"]


def _port() -> int:
    from tests.servers import free_port

    return free_port()


class Sampler:
    """Calls something again and again in a thread, and keeps (moment, answer)."""

    def __init__(self, call: Callable[[], Any], every: float = 0.2) -> None:
        self.call, self.every = call, every
        self.samples: list[tuple[float, Any, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = self.call()
            except httpx.HTTPError as error:
                answer = error
            self.samples.append((began, answer, time.monotonic() - began))
            self._stop.wait(self.every)
