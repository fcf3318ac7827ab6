"""Fixtures of the live tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosting import live


@pytest.fixture(scope="session")
def _world(
    tmp_path_factory: pytest.TempPathFactory, django_db_blocker: object
) -> Iterator[live.World]:
    with django_db_blocker.unblock(), live.world(tmp_path_factory.mktemp("live")) as made:
        yield made


@pytest.fixture
def world(_world: live.World, django_db_blocker: object) -> Iterator[live.World]:
    """An empty world; every qnode started in the test is gone after it."""
    with django_db_blocker.unblock():
        _world.reset()
        _world.nodes = []
        yield _world
        _world.close()
        for node in _world.nodes:
            assert node.family() == []
            node.log.unlink(missing_ok=True)
