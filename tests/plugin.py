"""Servers and environment for a test run, made before Django's settings are loaded.

`--db=postgres` (the default): a PostgreSQL and a Redis of its own, from tests/servers.py.
`--db=sqlite`: the embedded default, that is no DATABASE_URL and the launcher's private Redis.
Servers that run already are used when CASOLA_TEST_DATABASE_URL and CASOLA_TEST_REDIS_URL name
them; the workers of pytest-xdist find those of the run they belong to the same way.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from casola_site.core.private_redis import PrivateRedis
from tests import servers

# Where tests start servers and runners, and mostly wait for them.
LIVE = ("browser", "chaos", "hosting", "infra", "limits", "live_api", "server")
DATABASE = "CASOLA_TEST_DATABASE_URL"
REDIS = "CASOLA_TEST_REDIS_URL"
RESOURCES = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("casola").addoption(
        "--db",
        choices=("postgres", "sqlite"),
        default="postgres",
        help="Which database the tests run on (default: postgres, started for this run)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Set the environment; being a wrapper, this comes before pytest-django reads settings."""
    options = early_config.known_args_namespace
    if options.help or options.version:
        return (yield)
    resources = ExitStack()
    early_config.stash[RESOURCES] = resources
    early_config.add_cleanup(resources.close)
    _prepare(options.db, resources)
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts servers, so that a run can leave it to the end."""
    folders = [Path(__file__).parent / name for name in LIVE]
    for item in items:
        if item.path.stem.endswith("_live") or any(map(item.path.is_relative_to, folders)):
            item.add_marker("live")


def _prepare(database: str, resources: ExitStack) -> None:
    folder = servers.Folder()
    resources.callback(folder.remove)
    var_dir = folder.path / "var"
    os.environ["VAR_DIR"] = str(var_dir)
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Before anything imports torch: its threads must not spin while others want the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if database == "sqlite":
        os.environ.pop("DATABASE_URL", None)
        private = PrivateRedis(var_dir)
        private.start()
        resources.callback(private.stop)
        os.environ["REDIS_URL"] = private.url
        return
    if DATABASE not in os.environ:
        server = servers.PostgresServer()
        resources.callback(server.close)
        os.environ[DATABASE] = server.start().url
        resources.callback(os.environ.pop, DATABASE)
    if REDIS not in os.environ:
        broker = servers.RedisServer()
        resources.callback(broker.close)
        os.environ[REDIS] = broker.start().url
        resources.callback(os.environ.pop, REDIS)
    os.environ["DATABASE_URL"] = os.environ[DATABASE]
    os.environ["REDIS_URL"] = _own_part(os.environ[REDIS])


def _own_part(url: str) -> str:
    """Give each worker of pytest-xdist a numbered database of the shared Redis."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker.startswith("gw"):
        return url
    return url.rstrip("0123456789").rstrip("/") + f"/{int(worker[2:]) + 1}"
