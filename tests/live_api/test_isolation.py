"""Many callers of two organizations at once: each gets its own answer, whoever hangs up."""

from __future__ import annotations

import asyncio
import json
import random

import httpx
import pytest

from tests.live_api.envelope import CHAT, bearer

CALLERS = 200


def request_body(canary: str, stream: bool) -> dict:
    text = " ".join(f"{canary}-{number}" for number in range(12))
    return {
        "model": "test/mirror",
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
    }


def streamed(lines: list[str]) -> str:
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.mark.slow
def test_answers_never_cross(site):
    """200 requests of two organizations; a third of them leave early; nobody sees another's words."""
    chance = random.Random(7)
    plan = [(number, chance.random() < 0.33, chance.random() < 0.5) for number in range(CALLERS)]

    async def one(clients: list[httpx.AsyncClient], number: int, leaves: bool, stream: bool):
        canary = f"canary{number}x{number * 7919 % 1000}"
        client = clients[number % len(clients)]
        body = request_body(canary, stream)
        if leaves:
            task = asyncio.create_task(client.post(CHAT, json=body))
            await asyncio.sleep(0.05 + (number % 10) / 50)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        if stream:
            async with client.stream("POST", CHAT, json=body) as response:
                assert response.status_code == 200, await response.aread()
                text = streamed([line async for line in response.aiter_lines()])
                job = response.headers["x-casola-job-id"]
        else:
            response = await client.post(CHAT, json=body)
            assert response.status_code == 200, response.text
            text = response.json()["choices"][0]["message"]["content"]
            job = response.headers["x-casola-job-id"]
        assert text.split() == [f"{canary}-{part}" for part in range(12)]
        return client, job

    async def main() -> None:
        limits = httpx.Limits(max_connections=CALLERS)
        clients = [
            httpx.AsyncClient(base_url=url, headers=bearer(secret), timeout=60, limits=limits)
            for url in site.urls
            for secret in (site.alpha["user_write"], site.beta["user_write"])
        ]
        done = await asyncio.gather(*(one(clients, *row) for row in plan))
        kept = [found for found in done if found is not None]
        assert len(kept) > CALLERS / 2
        for client, job in kept[:: len(kept) // 20]:
            own = await client.get(f"/api/jobs/{job}")
            assert own.json()["status"] == "completed"
            other = clients[1 - clients.index(client) % 2]
            assert (await other.get(f"/api/jobs/{job}")).status_code == 404
        for client in clients:
            await client.aclose()

    asyncio.run(main())
