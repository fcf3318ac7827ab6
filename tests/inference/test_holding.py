"""What an interactive request reserves comes back on every way that leads to no Runner."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connections
from django.utils import timezone

from casola_site.core.errors import ApiError
from inference import selectors
from inference.api import holding
from inference.api.interactive import Call
from inference.api.openai.chat import ChatCompletionViewSet
from inference.hub import Hub
from inference.models import ModelSpec, Node
from jobs.housekeeping import release_abandoned
from jobs.models import Job
from tests.factories.accounts import make_organization
from tests.factories.jobs import make_runner
from tests.factories.tokens import make_identity, make_token
from tests.factories.usage import make_budget, make_price
from tests.jobs.invariants import violations
from tests.waiting import until
from usage.models import BudgetReservation
from usage.reservations import OutOfBudget

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]
BODY = {"model": "test/held", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


class Scene:
    """A budget of five dollars and a model that costs one for each token, which nobody holds."""

    def __init__(self) -> None:
        self.organization = make_organization()
        token, _ = make_token(organization=self.organization)
        self.spec = ModelSpec.objects.create(
            model_id="test/held", tasks=["openai/chat-completion"], engine="echo", source=""
        )
        make_price(model_id="test/held")
        self.counter = make_budget(self.organization, "5")
        self.identity = make_identity(
            organization_pk=self.organization.pk,
            organization_id=self.organization.public_id,
            token_pk=token.pk,
            organization_has_budget=True,
        )

    def reserved(self) -> int:
        self.counter.refresh_from_db()
        return self.counter.reserved // 10**9

    def play(self, scene) -> None:
        """Run `await scene(ask)` with `ask(**body)` on a loop of its own."""

        async def main() -> None:
            hub = Hub()
            hub.start()

            async def ask(**fields) -> Call:
                view = ChatCompletionViewSet
                call = await view.prepare(hub, self.identity, {**BODY, **fields})
                async for _ in view.pieces(hub, call):
                    pass
                return call

            try:
                await asyncio.wait_for(scene(ask), 30)
            finally:
                for task in hub._tasks:
                    task.cancel()
                await hub.link.close()

        asyncio.run(main())


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.setattr(selectors, "_catalog", selectors.Catalog())
    yield Scene()
    monkeypatch.setattr(selectors, "_catalog", selectors.Catalog())


@pytest.fixture(autouse=True)
def own_threads(monkeypatch):
    """Threads that give their connections back."""
    pool = ThreadPoolExecutor(4)
    for name in ("hold", "give_back"):
        function = getattr(holding, name)
        monkeypatch.setattr(holding, f"{name}_async", holding.in_thread(function, pool))
    yield
    list(pool.map(lambda _: connections.close_all(), range(16)))
    pool.shutdown()


def test_a_model_that_nobody_can_load(scene):
    async def play(ask):
        with pytest.raises(ApiError) as refused:
            await ask()
        assert (refused.value.status, refused.value.code) == (503, "model_unavailable")

    scene.play(play)
    assert scene.reserved() == 0
    assert not BudgetReservation.objects.exists()


def test_what_does_not_fit_is_told_before_anything_is_sent(scene):
    async def play(ask):
        with pytest.raises(OutOfBudget, match=r"The organization's budget of 5\.00 USD has 5\.00"):
            await ask(n=2)

    scene.play(play)
    assert (scene.reserved(), Job.objects.count()) == (0, 0)


def test_who_leaves_while_a_model_is_loaded(scene):
    Node.objects.create(name="n", heartbeat_at=timezone.now())

    async def play(ask):
        waiting = asyncio.create_task(ask())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, until, lambda: _closing(scene.reserved) == 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    scene.play(play)
    assert scene.reserved() == 0


def test_who_leaves_in_the_moment_of_reserving(scene):
    async def play(ask):
        for delay in (0.0, 0.001, 0.003, 0.006, 0.01, 0.02):
            waiting = asyncio.create_task(ask())
            await asyncio.sleep(delay)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, ApiError):
                await waiting

    scene.play(play)
    assert scene.reserved() == 0


def test_who_leaves_while_it_is_given_back(scene, monkeypatch):
    """Also when every thread is busy, so that giving back has not begun."""
    threads = ThreadPoolExecutor(1)
    busy = threading.Event()
    give_back = holding.in_thread(holding.give_back, threads)
    begun: list[str] = []

    async def later(job_id, **options):
        begun.append(job_id)
        await give_back(job_id, **options)

    monkeypatch.setattr(holding, "give_back_async", later)

    async def play(ask):
        threads.submit(busy.wait, 20)
        waiting = asyncio.create_task(ask())
        while not begun:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(0.05)
        waiting.cancel()
        busy.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    scene.play(play)
    threads.submit(connections.close_all).result()
    threads.shutdown()
    assert scene.reserved() == 0


def test_a_runner_that_says_nothing_keeps_it_for_a_minute(scene, settings):
    """It may have begun: what it records then is still paid from what was held back."""
    settings.WAIT_SECONDS = 1
    make_runner(queue_id=scene.spec.queue_id, channel="casola.runner.nobody", model_id="test/held")

    async def play(ask):
        with pytest.raises(ApiError):
            await ask()

    scene.play(play)
    assert scene.reserved() == 3
    held = BudgetReservation.objects.get()
    assert held.expires_at <= timezone.now() + holding.GIVEN_UP
    assert release_abandoned(now=timezone.now()) == 0
    assert release_abandoned(now=timezone.now() + timedelta(minutes=2)) == 1
    assert scene.reserved() == 0
    assert violations() == []


def test_who_has_no_budget_reserves_nothing(scene):
    scene.identity = make_identity(organization_pk=scene.organization.pk)

    async def play(ask):
        with pytest.raises(ApiError) as refused:
            await ask(max_tokens=10**6)
        assert refused.value.status == 503

    scene.play(play)
    assert scene.counter.state(timezone.now()).remaining == Decimal(5)


def _closing(function):
    try:
        return function()
    finally:
        connections.close_all()
