"""What the budgets of an interactive request hold back for it, and give back when it came to nothing.

Once a Runner has the request, its end settles the reservation in the transaction that records it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import DatabaseError

from casola_site.core.clock import now
from casola_site.core.database import in_thread, to_the_end
from inference.ceilings import cost_ceiling
from inference.hub import Trace
from usage.reservations import let_expire, refusals_told, release, reserve

if TYPE_CHECKING:
    from inference.api.interactive import Call

logger = logging.getLogger(__name__)

SLACK = timedelta(minutes=5)
# A Runner that a request was taken from is told within seconds, stops within CANCEL_GRACE_SECONDS
# or ends, and writes what there is to write.
GIVEN_UP = timedelta(minutes=1)
# Threads of their own: many callers of one budget wait for its row, others need not.
_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="budgets")


def hold(call: Call, task: str, contract: dict[str, Any]) -> None:
    """Reserve what the call may cost at most. Raises OutOfBudget."""
    moment, identity = now(), call.identity
    longest = (
        settings.WAIT_SECONDS + settings.START_TO_CLOSE_SECONDS + settings.CANCEL_GRACE_SECONDS
    )
    ceiling = cost_ceiling(model=call.model, task=task, contract=contract, now=moment)
    with refusals_told(moment):
        reserve(
            job_id=call.job_id,
            organization_id=identity.organization_pk,
            token_id=identity.token_pk,
            ceiling=ceiling,
            now=moment,
            expires_at=moment + timedelta(seconds=longest) + SLACK,
        )


def give_back(job_id: str, *, has_runner: bool) -> None:
    """Release what is held, soon where a Runner may still record something."""
    if has_runner:
        let_expire(job_id=job_id, at=now() + GIVEN_UP)
    else:
        release([job_id])


hold_async = in_thread(hold, _threads)
give_back_async = in_thread(give_back, _threads)


@contextlib.asynccontextmanager
async def held(call: Call, task: str, contract: dict[str, Any]) -> AsyncIterator[Trace]:
    """Around the run of a call; a caller without budgets pays nothing for it. Raises OutOfBudget."""
    trace = Trace()
    if not call.identity.is_budgeted:
        yield trace
        return
    await _hold(call, task, contract)
    try:
        yield trace
    finally:
        if call.finished is None:
            await _give_back(call, has_runner=trace.runners > 0)


async def _hold(call: Call, task: str, contract: dict[str, Any]) -> None:
    try:
        await to_the_end(hold_async(call, task, contract))
    except asyncio.CancelledError:
        await _give_back(call, has_runner=False)
        raise


async def _give_back(call: Call, *, has_runner: bool) -> None:
    try:
        await to_the_end(give_back_async(call.job_id, has_runner=has_runner))
    except DatabaseError as error:
        logger.warning("a reservation is left to the sweep: %s", type(error).__name__)
