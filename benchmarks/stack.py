"""A whole Casola to measure, on servers of its own, and the CPU time that each part of it uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Client, Plan, Result
from tests.live import CHAT, Live, free_port
from tests.servers import Folder, PostgresServer, RedisServer

WHOLE = "bench/whole"  # answers 16 words at once after the delay its prompt asks for
PACED = "bench/paced"  # streams one word every TOKEN_MS
TOKEN_MS = 33.3
SPECS = {
    WHOLE: {"tokens": 16, "waiting": 8192},
    PACED: {"tokens": 100, "token_ms": TOKEN_MS, "waiting": 8192},
}
MAKE_SPECS = """
from inference.models import ModelSpec
ModelSpec.objects.update(enabled=False, keep_loaded=False)
for model_id, options in {specs!r}.items():
    ModelSpec.objects.create(
        model_id=model_id, tasks=["openai/chat-completion", "test/echo"], engine="echo",
        slots=4096, keep_loaded=True, options=options)
"""
Parts = dict[str, float]


def tree_seconds(pid: int) -> float:
    """CPU seconds of a process, its children and those it has reaped."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        times = parent.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
    return total


@dataclass
class Stack(Live):
    """Live with the benchmark's models and with books of what was answered."""

    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    answered: int = 0
    failed: int = 0
    runner_pids: dict[str, int] = field(default_factory=dict)
    make_specs: str = MAKE_SPECS.format(specs=SPECS)
    models: tuple[str, ...] = tuple(SPECS)

    def start(self) -> Stack:
        """Begin; returns when all models answer."""
        self.var_dir.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        self.manage("migrate", "-v0")
        self.manage("ensure_demo")
        self.python(self.make_specs)
        self.start_process("web", "web")
        self.start_process("gpu", "qnode", f"gpu-{self.node}")
        for model in self.models:
            self.wait_ready(model)
        self.runner_pids = {row["model_id"]: row["pid"] for row in self.runners()}
        return self

    def plan(self, **options: Any) -> Plan:
        """A plan against this Casola's chat endpoint."""
        return Plan(port=self.port, key=self.key, path=CHAT, **options)

    def cpu(self, model: str) -> Parts:
        """CPU seconds used so far by each part; `runner` is that of the model."""
        parts = {
            "web": tree_seconds(self.processes["web"].pid),
            "runner": tree_seconds(self.runner_pids[model]),
        }
        if self.postgres is not None:
            parts["postgres"] = tree_seconds(self.postgres.pid)
        if self.redis is not None:
            parts["redis"] = tree_seconds(self.redis.pid)
        return parts

    def measure(self, plan: Plan) -> tuple[Result, Parts]:
        """Run a plan; returns what came back and the CPU seconds it took."""
        client = Client(plan)
        before = self.cpu(plan.body["model"])
        result = client.go()
        after = self.cpu(plan.body["model"])
        self.answered += result.answered
        self.failed += result.failed
        for error in result.errors:
            print(f"FAILED: {error}")
        return result, {part: after[part] - before[part] for part in after}

    def unrecorded(self) -> int:
        """Answers without a UsageRecord less records without an answer; 0 is right."""
        code = "from usage.models import UsageRecord; print(UsageRecord.objects.count())"
        return self.answered - int(self.python(code).splitlines()[-1])


@contextlib.contextmanager
def stack(
    database: str, *, models: dict[str, str] | None = None, **environment: str
) -> Iterator[Stack]:
    """A started Stack on `postgres` (durable) or `sqlite`, and its end.

    `models` are the code that makes each model's ModelSpec, by model id; the stub ones by default.
    """
    specs = {"make_specs": "\n".join(models.values()), "models": tuple(models)} if models else {}
    folder = Folder()
    with contextlib.ExitStack() as ending:
        ending.callback(folder.remove)
        redis = RedisServer().start()
        ending.callback(redis.close)
        postgres = None
        if database == "postgres":
            postgres = PostgresServer(durable=True).start()
            ending.callback(postgres.close)
        found = Stack(
            var_dir=Path(folder.path) / "var",
            redis_url=redis.url,
            database_url=postgres.url if postgres else "",
            environment={"LEASE_SECONDS": "30", "LOG_LEVEL": "WARNING", **environment},
            node="bench",
            postgres=postgres,
            redis=redis,
            **specs,
        )
        ending.callback(found.stop)
        try:
            yield found.start()
        except BaseException:
            for log in found.var_dir.glob("*.log"):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
            raise


def chat_body(text: str, *, model: str = WHOLE, stream: bool = False) -> dict[str, Any]:
    """A request as an OpenAI client sends it."""
    system = "You are a helpful assistant."
    return {
        "model": model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}],
        "temperature": 0.7,
        "max_tokens": 512,
        **({"stream": True} if stream else {}),
    }
