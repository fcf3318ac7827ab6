"""Guarded servers that many tests share."""

import pytest
from guarded_site import running


@pytest.fixture(scope="session")
def site():
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def hasty():
    """A server with every limit short."""
    with running(
        request_seconds=0.4,
        unsent_seconds=0.8,
        response_seconds=0.8,
        close_seconds=0.3,
        max_connections_per_ip=60,
        spool_budget=3_000_000,
    ) as server:
        yield server
