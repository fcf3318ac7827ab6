"""Which state a Job may move to (pure)."""

from __future__ import annotations

ALLOWED: frozenset[tuple[str, str]] = frozenset(
    {
        ("pending", "processing"),
        ("pending", "cancelled"),
        ("pending", "failed"),
        ("processing", "pending"),
        ("processing", "completed"),
        ("processing", "failed"),
        ("processing", "cancelled"),
    }
)
MAX_CRASHES = 3
BACKOFF_SECONDS = (0, 5, 30)
AS_TOLD = 20  # attempts
MOST_ROOM_SECONDS = 300


def may_move(old: str, new: str) -> bool:
    """Whether the move is in the table."""
    return (old, new) in ALLOWED


def backoff_seconds(failures: int) -> int:
    """How long to wait before the attempt after `failures` failed ones."""
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures > 0 else 0


def room_seconds(retry_after: int, attempts: int) -> int:
    """How long to wait for room: as told at first, then longer each time that there was none."""
    often = min(max(0, attempts - AS_TOLD), 8)
    return max(retry_after, min(MOST_ROOM_SECONDS, retry_after * 2**often))


def share(*, free: int, running: dict[int, int], waiting: dict[int, int]) -> list[int]:
    """Which organization gets each of `free` slots: always the one with the fewest running.

    `running` and `waiting` count Jobs by organization; ties go to the smaller key, so that the
    answer is the same everywhere.
    """
    load = {key: running.get(key, 0) for key, count in waiting.items() if count > 0}
    left = dict(waiting)
    chosen: list[int] = []
    while len(chosen) < free and load:
        key = min(load, key=lambda k: (load[k], k))
        chosen.append(key)
        load[key] += 1
        left[key] -= 1
        if left[key] == 0:
            del load[key]
    return chosen
