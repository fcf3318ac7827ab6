"""`manage.py up`: everything a single host needs, in one terminal."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor

from casola_site.core.private_redis import PrivateRedis, PrivateRedisError
from casola_site.core.supervisor import Child, Supervisor

PROCESSES = {
    "web": ["web"],
    "qnode default": ["qnode", "default"],
    "qnode gpu-local": ["qnode", "gpu-local"],
}
REDIS_TIMEOUT = 10.0
ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with
BANNER = """
  Casola is running.

    Dashboard   {base}/
    Reference   {base}/docs
    API key     {key}

  Try it:

    curl {base}/openai/v1/chat/completions \\
      -H "Authorization: Bearer {key}" \\
      -H "Content-Type: application/json" \\
      -d '{{"model": "Qwen/Qwen3.5-4B", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  Ctrl-C ends everything.
"""


class Command(BaseCommand):
    """Migrate, make the demo organization, start Redis, web and queue nodes, and stay."""

    help = "Start the whole of Casola in this terminal"
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def handle(self, *args: Any, **options: Any) -> None:
        """Start and stay until a signal; every refusal is one sentence and exit code 1."""
        var_dir = Path(settings.VAR_DIR).absolute()
        var_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_one(var_dir):
            _check_port(settings.HOST, settings.PORT)
            with (
                contextlib.suppress(KeyboardInterrupt),
                Supervisor(log_dir=var_dir / "logs") as supervisor,
                _redis(supervisor, var_dir),
            ):
                _prepare_database(supervisor)
                _serve(supervisor, var_dir)


@contextlib.contextmanager
def _only_one(var_dir: Path) -> Iterator[None]:
    """Hold the lock of this VAR_DIR. Raises CommandError when another launcher has it."""
    with (var_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(
                f"Casola is already running with VAR_DIR={var_dir}; "
                "end it first, or set another VAR_DIR and PORT."
            ) from None
        yield


def _check_port(host: str, port: int) -> None:
    """Raise CommandError when the web process could not listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"Cannot listen on {host} port {port} ({error.strerror}); "
                "choose another one, for instance PORT=8001."
            ) from None


@contextlib.contextmanager
def _redis(supervisor: Supervisor, var_dir: Path) -> Iterator[None]:
    """Have the private Redis for the length of the block, unless REDIS_URL names another one.

    Raises CommandError.
    """
    if os.environ.get("REDIS_URL"):
        yield
        return
    private = PrivateRedis(var_dir)
    try:
        private.prepare()
        supervisor.start(Child("redis", private.argv, stage=1, quiet=True))
    except PrivateRedisError as error:
        raise CommandError(str(error)) from None
    try:
        if not supervisor.wait_for(private.answers, REDIS_TIMEOUT) and not supervisor.stopping:
            raise CommandError(f"The private Redis does not answer on {private.socket}.")
        os.environ["REDIS_URL"] = private.url
        yield
    finally:
        supervisor.stop()
        private.remove_socket()


def _prepare_database(supervisor: Supervisor) -> None:
    """Migrate if there is anything to migrate, and see to the demo organization."""
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        supervisor.say("Preparing the database ...")
        call_command("migrate", interactive=False, verbosity=0)
    call_command("ensure_demo")
    connections.close_all()


def _serve(supervisor: Supervisor, var_dir: Path) -> None:
    """Run web and queue nodes until a signal comes."""
    for name, arguments in PROCESSES.items():
        supervisor.start(Child(name, [sys.executable, sys.argv[0], *arguments]))
    threading.Thread(target=_announce, args=(supervisor, var_dir), daemon=True).start()
    supervisor.run()
    supervisor.say("Ending (Ctrl-C again to end at once) ...")


def _announce(supervisor: Supervisor, var_dir: Path) -> None:
    """Print the banner once the web process says that it is ready."""
    address, port = ANYWHERE.get(settings.HOST, settings.HOST), settings.PORT
    while not _is_ready(address, port):
        if supervisor.stopping:
            return
        time.sleep(0.05)
    key_file = var_dir / "demo-key"
    key = key_file.read_text().strip() if key_file.exists() else "csl_..."
    name = f"[{address}]" if ":" in address else address
    supervisor.say(BANNER.format(base=f"http://{name}:{port}", key=key))


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
