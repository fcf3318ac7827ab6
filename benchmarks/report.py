"""What all benchmarks print and keep: machine facts, tables, one JSON file each."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.servers import find_postgres, find_redis

PACKAGES = ("django", "channels", "channels-redis", "daphne", "djangorestframework", "redis",
            "psycopg", "django-q2")  # fmt: skip
Row = dict[str, Any]


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` (0-1) of all lie; 0 without samples."""
    if not samples:
        return 0.0
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(samples: Sequence[float]) -> float:
    """The middle sample; 0 without samples."""
    return statistics.median(samples) if samples else 0.0


def machine() -> Row:
    """Where the figures come from."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "postgres": _version(str(find_postgres() / "postgres")),
        "redis": _version(str(find_redis())),
        "packages": {name: version(name) for name in PACKAGES},
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    return done.stdout.strip()


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(f"  {text} ...", file=sys.stderr, flush=True)


def table(title: str, rows: list[Row]) -> None:
    """Print rows with the same keys as columns."""
    print(f"\n{title}")
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_text(row.get(name, "")) for name in names] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        print("  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
    sys.stdout.flush()


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if value else "0"


def keep(name: str, figures: Any) -> Path:
    """Write var/bench-<name>.json."""
    folder = Path(os.environ.get("VAR_DIR") or "var")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{name}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
    return path
