"""A whole Casola for a test: real web processes and qnodes on a database and Redis of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from tests.servers import free_port
from tests.waiting import patient

ROOT = Path(__file__).resolve().parents[1]
CHAT = "/openai/v1/chat/completions"


def wait_until(
    condition, *, seconds: float = 30.0, every: float = 0.05, what: str = "the condition"
):
    """The first true value of `condition()`; fails after PATIENCE times `seconds`."""
    seconds = patient(seconds)
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError, AssertionError, psycopg.Error):
            value = condition()
            if value:
                return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {seconds} s")
        time.sleep(every)


@dataclass
class Live:
    """`start()` returns when a request can be answered; `stop()` leaves no process."""

    var_dir: Path
    redis_url: str
    database_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    node: str = "test"
    port: int = 0
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, folder: Path, **options: Any) -> Live:
        """On the session's servers: a fresh PostgreSQL database, or SQLite in `folder`.

        `redis_url` names another Redis.
        """
        database_url = os.environ.get("DATABASE_URL", "")
        if database_url:
            database_url = fresh_database(database_url)
        options.setdefault("redis_url", os.environ["REDIS_URL"])
        return cls(var_dir=folder, database_url=database_url, **options)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "casola_site.settings.test",
            "VAR_DIR": str(self.var_dir),
            "REDIS_URL": self.redis_url,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "WEB_WORKERS": str(self.workers),
            "LEASE_SECONDS": "3",
            "RUNNER_SLOTS": "3",
            "DRAIN_SECONDS": "8",
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        env.pop("DATABASE_URL", None)
        if self.database_url:
            env["DATABASE_URL"] = self.database_url
        return env

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        """Run code inside a configured Django."""
        return self.manage("shell", "-v0", "-c", code).strip()

    def start(self) -> Live:
        self.var_dir.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        self.manage("migrate", "-v0")
        self.manage("ensure_demo")
        self.start_process("web", "web")
        self.start_process("gpu", "qnode", f"gpu-{self.node}")
        self.wait_ready()
        return self

    def start_process(self, name: str, *arguments: str) -> subprocess.Popen:
        log = (self.var_dir / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.env(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        return self.processes[name]

    def wait_ready(self, model: str = "test/echo", seconds: float = 180) -> None:
        wait_until(lambda: self.get("/readyz").status_code == 200, seconds=seconds, what="readyz")
        wait_until(
            lambda: self.status_of(model) == "online", seconds=seconds, what=f"{model} online"
        )

    def status_of(self, model: str) -> str:
        models = self.get("/api/model-status").json()["models"]
        return next(entry["status"] for entry in models if entry["model_id"] == model)

    @property
    def key(self) -> str:
        """The demo organization's secret (plan unlimited)."""
        return (self.var_dir / "demo-key").read_text().strip()

    def organization(self, plan: str = "unlimited", **options: str) -> dict[str, str]:
        """A new organization with an admin token."""
        name = options.get("name", f"Org {uuid.uuid4().hex[:8]}")
        email = f"{uuid.uuid4().hex[:8]}@example.com"
        out = self.manage(
            "create_organization", "--name", name, "--plan", plan, "--owner-email", email
        )
        return json.loads(out.strip().splitlines()[-1])

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key or self.key}"}

    def get(self, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers(key), timeout=30, **options)

    def post(
        self, path: str, body: Any = None, key: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = {**self.headers(key), **options.pop("headers", {})}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=150, **options)

    def chat(self, text: str = "hi", key: str | None = None, **body: Any) -> httpx.Response:
        body = {"model": "test/echo", "messages": [{"role": "user", "content": text}], **body}
        return self.post(CHAT, body, key)

    def job(self, job_id: str, key: str | None = None) -> dict[str, Any]:
        return self.get(f"/api/jobs/{job_id}", key).json()

    def wait_job(
        self, job_id: str, *, seconds: float = 30, key: str | None = None
    ) -> dict[str, Any]:
        """The Job once it has ended."""

        def ended() -> dict[str, Any] | None:
            job = self.job(job_id, key)
            return job if job.get("status") in ("completed", "failed", "cancelled") else None

        return wait_until(ended, seconds=seconds, what=f"the end of job {job_id}")

    def runners(self, state: str = "live") -> list[dict[str, Any]]:
        """Rows of Runners in a state."""
        code = (
            "import json; from jobs.models import Runner;"
            f"print(json.dumps(list(Runner.objects.filter(state={state!r}).values("
            "'public_id','pid','model_id','placement_id','channel'))))"
        )
        return json.loads(self.python(code).splitlines()[-1])

    def tree(self, name: str) -> list[psutil.Process]:
        """A process and all below it."""
        parent = psutil.Process(self.processes[name].pid)
        return [parent, *parent.children(recursive=True)]

    def stop(self) -> None:
        below: list[psutil.Process] = []
        for process in self.processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                below += psutil.Process(process.pid).children(recursive=True)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        for leftover in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                leftover.kill()


def fresh_database(url: str) -> str:
    """A new, empty database on the same PostgreSQL server."""
    name = f"live_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{url.rsplit('/', 1)[0]}/{name}"
