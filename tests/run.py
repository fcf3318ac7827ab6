"""Run the whole suite: all of it on PostgreSQL, the tests marked `sqlite` also on SQLite.

What runs inside one process is shared out to two; then comes what starts servers, alone. Arguments
go to pytest each time: `python -m tests.run -k jobs -x`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

NO_TESTS_COLLECTED = 5
SUMMARY = re.compile(r"^=+ .* in \d+[.\d]*s.*=+$", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SHARED = ["-n", "2", "--dist", "loadfile"]
RUNS = {
    "PostgreSQL": ["--db=postgres", *SHARED, "-m", "not live"],
    "SQLite": ["--db=sqlite", *SHARED, "-m", "sqlite and not live"],
    "PostgreSQL, live": ["--db=postgres", "-m", "live"],
    "SQLite, live": ["--db=sqlite", "-m", "sqlite and live"],
}


def run_pytest(arguments: list[str]) -> tuple[int, str]:
    """Run pytest with its output passed through; return exit code and last summary line."""
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *colour, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    tail = b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        tail = (tail + chunk)[-20000:]
    lines = SUMMARY.findall(COLOUR.sub("", tail.decode(errors="replace")))
    return process.wait(), lines[-1] if lines else "(no summary)"


def main(arguments: list[str]) -> int:
    """Run all; return 0 when neither failed."""
    results = {name: run_pytest([*options, *arguments]) for name, options in RUNS.items()}
    print()
    for name, (code, summary) in results.items():
        print(f"{name}: {summary} (exit {code})")
    codes = [code for code, _ in results.values()]
    if all(code == NO_TESTS_COLLECTED for code in codes):
        return NO_TESTS_COLLECTED
    return next((code for code in codes if code not in (0, NO_TESTS_COLLECTED)), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
