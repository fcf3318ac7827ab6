"""Measure speed: `python -m benchmarks [gateway|streams|queue|engine|chat|embeddings|usage|budgets|all] [--quick]`.

Prints tables, keeps var/bench-<name>.json (or $VAR_DIR/...), and ends with an error only where a
request failed or was not recorded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys

NAMES = ("gateway", "streams", "queue", "engine", "chat", "embeddings", "usage", "budgets")


def main() -> int:
    """Run what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)} or all")
    parser.add_argument(
        "--quick", action="store_true", help="short runs: for trying, not for figures"
    )
    options = parser.parse_args()
    names = options.names or ["all"]
    if unknown := set(names) - {*NAMES, "all"}:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    from benchmarks import report

    print(json.dumps(report.machine(), indent=1), flush=True)
    wrong = 0
    for name in NAMES if "all" in names else names:
        if name == "engine":
            # It has options of its own and needs torch, which no other benchmark loads.
            short = ["--rounds", "1", "--streams", "1", "8"] if options.quick else []
            done = subprocess.run([sys.executable, "-m", "benchmarks.engine", *short])
            wrong += done.returncode != 0
        else:
            wrong += importlib.import_module(f"benchmarks.{name}").run(quick=options.quick)
    if wrong:
        print(f"\n{wrong} requests failed or were not recorded", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
