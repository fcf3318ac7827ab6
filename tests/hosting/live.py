"""Starts real qnodes on a database of their own, and looks at them from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.db import connections
from django.utils import timezone
from django_q.models import OrmQ, Task
from django_q.signing import SignedPackage

from casola_site.core import processes
from inference import node_lock
from inference.enums import PlacementState
from inference.models import ModelSpec, Placement
from jobs.enums import HOLDS_LEASE, RunnerState
from jobs.models import Runner
from tests.waiting import until

ALIAS = "live"
NODE = "test"
CLUSTER = f"gpu-{NODE}"
REPOSITORY = Path(settings.BASE_DIR)


def took(condition: Callable[[], Any], seconds: float, what: str = "") -> float:
    """How long `until` had to wait."""
    began = time.monotonic()
    until(condition, seconds, what)
    return time.monotonic() - began


class World:
    """One database and VAR_DIR, and the qnodes started on them."""

    def __init__(self, var_dir: Path, database_url: str) -> None:
        self.var_dir = var_dir
        self.environment = {
            **{
                k: v for k, v in os.environ.items() if k not in {"Q_CLUSTER_NAME", node_lock.MARKER}
            },
            "VAR_DIR": str(var_dir),
            "DATABASE_URL": database_url,
            "SECRET_KEY": settings.SECRET_KEY,
            "DJANGO_SETTINGS_MODULE": "tests.hosting.settings",
            "RUNNER_MEMORY_MB": "4096",
        }
        self.nodes: list[QNode] = []

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )

    def start(self, cluster: str = CLUSTER, **environment: str) -> QNode:
        node = QNode(self, cluster, environment)
        self.nodes.append(node)
        return node

    def close(self) -> None:
        for node in self.nodes:
            node.kill_everything()

    # --- the tables ---------------------------------------------------------------------------

    def reset(self) -> None:
        for model in (Placement, ModelSpec, Runner, OrmQ, Task):
            model.objects.using(ALIAS).all().delete()

    def want(self, model_id: str, **options: Any) -> Placement:
        """A spec and a wanted placement of it on the test node."""
        options = {"memory_mb": 100, **options}
        spec = ModelSpec.objects.using(ALIAS).create(
            model_id=model_id,
            engine="echo",
            source="",
            device="cpu",
            keep_loaded=True,
            options=options,
        )
        return Placement.objects.using(ALIAS).create(
            spec=spec, node=NODE, device="cpu", memory_bytes=100 << 20
        )

    def leave(self, placement: Placement) -> None:
        """Have it stopped for good."""
        ModelSpec.objects.using(ALIAS).filter(pk=placement.spec_id).update(enabled=False)
        Placement.objects.using(ALIAS).filter(pk=placement.pk).update(state=PlacementState.STOPPING)

    def state(self, placement: Placement) -> str:
        return Placement.objects.using(ALIAS).get(pk=placement.pk).state

    def runners(self, placement: Placement) -> list[Runner]:
        rows = Runner.objects.using(ALIAS).filter(placement_id=placement.public_id)
        return list(rows.order_by("pk"))

    def live(self, placement: Placement) -> Runner | None:
        """The placement's live Runner, if its process runs."""
        rows = [r for r in self.runners(placement) if r.state == RunnerState.LIVE]
        return next((r for r in rows if processes.is_running(r.pid, r.pid_start)), None)

    def holders(self) -> int:
        return Runner.objects.using(ALIAS).filter(state__in=HOLDS_LEASE).count()

    def enqueue(self, cluster: str, function: str, *args: Any, **options: Any) -> OrmQ:
        """What a web process does: a signed task on a cluster's queue."""
        task = {
            "id": os.urandom(8).hex(),
            "name": f"test:{function}",
            "func": function,
            "args": args,
            "kwargs": {},
            "started": timezone.now(),
            "ack_failure": True,
            "save": False,
            **options,
        }
        lock = timezone.now() - timedelta(days=1)
        return OrmQ.objects.using(ALIAS).create(
            key=cluster, payload=SignedPackage.dumps(task), lock=lock
        )

    def failures(self) -> list[str]:
        """The reasons of the failed functions that the monitor wrote down."""
        results = Task.objects.using(ALIAS).filter(success=False).values_list("result", flat=True)
        return [str(result).partition(" :")[0] for result in results]

    def queued(self, cluster: str, prefix: str = "") -> list[str]:
        rows = OrmQ.objects.using(ALIAS).filter(key=cluster).order_by("pk")
        return [name for row in rows if (name := row.name() or "").startswith(prefix)]


class QNode:
    """A `manage.py qnode` process in a group of its own, as the supervisor starts it."""

    def __init__(self, world: World, cluster: str, environment: dict[str, str]) -> None:
        self.world = world
        self.cluster = cluster
        self.environment = {**world.environment, **environment}
        self.log = world.var_dir / f"{cluster}.log"
        self.spawn()

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "qnode", self.cluster],
                cwd=REPOSITORY,
                env=self.environment,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self.marker = f"{self.cluster}.{self.process.pid}.{processes.started_at(self.process.pid)}"

    @property
    def lock(self) -> Path:
        return self.world.var_dir / f"qnode-{self.cluster}.lock"

    def family(self) -> list[int]:
        """Every process of this start but the main one."""
        found = node_lock.belonging(self.marker, self.lock) - {self.process.pid}
        return sorted(pid for pid in found if processes.is_running(pid))

    def sentinel(self) -> psutil.Process:
        return until(lambda: psutil.Process(self.process.pid).children(), 10, "a sentinel")[0]

    def children(self) -> list[psutil.Process]:
        """Workers, monitor and pusher in the order they were started."""
        slots = 2 if self.cluster == "default" else int(self.environment.get("RUNNER_SLOTS", 3))
        ready = lambda: len(self.sentinel().children()) >= slots + 2  # noqa: E731
        until(ready, 15, "all workers")
        return sorted(self.sentinel().children(), key=lambda p: (p.create_time(), p.pid))

    def workers(self) -> list[psutil.Process]:
        return self.children()[:-2]

    def pusher(self) -> psutil.Process:
        return self.children()[-1]

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def restart_when_ended(self, seconds: float) -> int:
        """What a supervisor does; returns the exit code it saw."""
        code = self.wait(seconds)
        self.spawn()
        return code

    def kill_everything(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)
        node_lock.kill_belonging(self.marker, self.lock)

    def text(self) -> str:
        return self.log.read_text()


@contextlib.contextmanager
def world(var_dir: Path) -> Iterator[World]:
    """A migrated database: SQLite in the folder, or a new one beside that of DATABASE_URL."""
    with _database(var_dir) as (url, configuration):
        connections.databases[ALIAS] = {
            **deepcopy(connections.databases["default"]),
            **configuration,
        }
        it = World(var_dir, url)
        it.manage("migrate", "--verbosity=0")
        try:
            yield it
        finally:
            it.close()
            connections[ALIAS].close()
            del connections[ALIAS]
            del connections.databases[ALIAS]


@contextlib.contextmanager
def _database(var_dir: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    url = os.environ.get("DATABASE_URL", "")
    if not url.startswith("postgres"):
        path = var_dir / "casola.sqlite3"
        yield f"sqlite:///{path}", {"NAME": str(path)}
        return
    import environ
    import psycopg

    name = f"hosting_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    base, _, query = url.partition("?")
    mine = base.rpartition("/")[0] + f"/{name}" + (f"?{query}" if query else "")
    try:
        yield mine, {"NAME": environ.Env.db_url_config(mine)["NAME"]}
    finally:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


__all__ = ["ALIAS", "CLUSTER", "NODE", "QNode", "World", "took", "until", "world"]
