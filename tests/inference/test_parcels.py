"""Large results beside the frames."""

from __future__ import annotations

import asyncio

import pytest

from casola_site.core.errors import Unavailable
from casola_site.core.redis import async_client
from inference import parcels

SMALL = {"vectors": b"x" * 100, "width": 25}
LARGE = {"vectors": bytes(range(256)) * 40_000, "width": 64}


def run(main):
    async def closing():
        try:
            return await main()
        finally:
            await async_client().aclose()

    return asyncio.run(closing())


def test_only_large_results_are_sent_ahead():
    assert not parcels.must_be_sent(SMALL)
    assert not parcels.must_be_sent({"scores": [0.5] * 1_000})
    assert parcels.must_be_sent(LARGE)


@pytest.mark.sqlite
def test_a_large_result_comes_back_whole_and_twice_if_need_be():
    async def main():
        sent = await parcels.send(LARGE)
        assert set(sent) == {"width", parcels.KEY}
        name, count, part = sent[parcels.KEY]
        assert (count, part) == (3, "vectors")
        left = [await async_client().ttl(f"{name}.{n}") for n in range(count)]
        assert all(0 < seconds <= parcels.SECONDS for seconds in left)
        return [await parcels.received(sent) for _ in range(2)]

    assert run(main) == [LARGE, LARGE]


def test_other_large_parts_travel_as_well():
    transcript = {"transcript": b"t" * 200_000}

    async def main():
        assert parcels.must_be_sent(transcript)
        return await parcels.received(await parcels.send(transcript))

    assert run(main) == transcript


def test_what_is_gone_is_said():
    async def main():
        sent = await parcels.send(LARGE)
        await async_client().delete(f"{sent[parcels.KEY][0]}.1")
        with pytest.raises(Unavailable):
            await parcels.received(sent)

    run(main)


def test_a_small_result_travels_as_it_is():
    async def main():
        return await parcels.received(SMALL)

    assert run(main) == SMALL
