"""`manage.py up` refuses in one sentence before it starts anything."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def up(var_dir, port):
    environment = os.environ | {"VAR_DIR": str(var_dir), "HOST": "127.0.0.1", "PORT": str(port)}
    environment.pop("REDIS_URL", None)
    environment.pop("DATABASE_URL", None)
    return subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = up(tmp_path, port)
    assert done.returncode == 1
    assert done.stderr == (
        f"CommandError: Cannot listen on 127.0.0.1 port {port} (Address already in use); "
        "choose another one, for instance PORT=8001.\n"
    )
    assert not (tmp_path / "logs").exists()


def test_a_second_launcher_of_the_same_folder_is_refused(tmp_path):
    with (tmp_path / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = up(tmp_path, 1)
    assert done.returncode == 1
    assert done.stderr == (
        f"CommandError: Casola is already running with VAR_DIR={tmp_path}; "
        "end it first, or set another VAR_DIR and PORT.\n"
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_the_banner_names_an_address_that_can_be_opened(address):
    from casola_site.management.commands.up import ANYWHERE

    assert ANYWHERE[address] in ("127.0.0.1", "::1")
