"""Database work from an event loop: a few long-lived threads, each with its own connection."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.db import close_old_connections

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 4

logger = logging.getLogger(__name__)

_executor = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="database")


def fresh(function: Callable[P, T]) -> Callable[P, T]:
    """The function behind a check of the thread's connection, so that a broken one is replaced."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        close_old_connections()
        return function(*args, **kwargs)

    return call


def in_thread(
    function: Callable[P, T], threads: ThreadPoolExecutor | None = None
) -> Callable[P, Coroutine[Any, Any, T]]:
    """An awaitable form of a function that uses the database, in the shared threads or in others."""
    checked = fresh(function)

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        pool = threads or _executor
        return await loop.run_in_executor(pool, functools.partial(checked, *args, **kwargs))

    return call


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await what must not stay undone: who is cancelled meanwhile is so only after it."""
    task = asyncio.ensure_future(work)
    left: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            left = error
    if left is not None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("failed for a caller who had left", exc_info=error)
        raise left
    return task.result()
