"""One Casola for the tests that only kill its own processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.world import World


@pytest.fixture(scope="session")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World.from_environment(
        tmp_path_factory.mktemp("chaos"),
        workers=2,
        environment={"START_TO_CLOSE_SECONDS": "8", "CANCEL_GRACE_SECONDS": "1"},
    )
    try:
        yield world.start()
    finally:
        world.finish()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """The shared world; every promise is checked after the test."""
    _world.runner()
    yield _world
    _world.check()
