"""Callers that ask for more than a Plan allows, and what the server admitted by its own clock.

Each connection asks without pause until it is refused, then knocks again after a short while, so
that every place that comes free at the edge of a window is taken at once. What was admitted is
journaled twice: by the callers (sent, received) and by reading, again and again, the moments that
the server itself has noted. Both must agree in number, and no 60 s of either may hold too many.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import redis.asyncio

from tests.live import CHAT, Live
from usage.limits import WINDOW_SECONDS, RateClass, window_key

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
WAIT = re.compile(rb"\r\nretry-after: *(\d+)\r\n", re.IGNORECASE)
REFUSED = {
    "code": "rate_limit",
    "message": "Rate limit exceeded",
    "type": "rate_limit_error",
}
READ_EVERY = 10.0
LIMITS = {
    ("free", RateClass.JOB_SUBMISSION): 10,
    ("free", RateClass.API_REQUEST): 60,
    ("pro", RateClass.JOB_SUBMISSION): 100,
    ("pro", RateClass.API_REQUEST): 600,
    ("enterprise", RateClass.JOB_SUBMISSION): 1000,
    ("enterprise", RateClass.API_REQUEST): 6000,
}
CONNECTIONS = {"free": 4, "pro": 4, "enterprise": 8}  # for each class
TENANTS = """
import json
from django.utils import timezone
from accounts.services import create_organization
from tokens.services import issue_token

made = {}
for plan in PLANS:
    row, owner = create_organization(
        name=f"Rated {plan}", plan_code=plan, owner_email=f"rated-{plan}@example.com")
    tokens = [issue_token(organization=row, created_by=owner, name=name, scopes=["user:write"],
        now=timezone.now())[1] for name in ("one", "two")]
    made[plan] = {"id": row.public_id, "tokens": tokens}
print(json.dumps(made))
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An Organization with two tokens."""

    plan: str
    organization_id: str
    tokens: tuple[str, str]


def make_tenants(live: Live, *plans: str) -> list[Tenant]:
    """One new Organization for each of the Plans."""
    made = json.loads(live.python(f"PLANS = {plans!r}{TENANTS}").splitlines()[-1])
    return [Tenant(plan, one["id"], tuple(one["tokens"])) for plan, one in made.items()]


@dataclass
class Journal:
    """One Organization's calls of one class."""

    tenant: Tenant
    rate_class: RateClass
    limit: int
    sent: list[float] = field(default_factory=list)
    received: list[float] = field(default_factory=list)
    callers: set[tuple[str, int]] = field(default_factory=set)
    """(address, token) of those who were admitted."""
    refused: int = 0
    odd: list[str] = field(default_factory=list)
    noted: dict[bytes, float] = field(default_factory=dict)
    """What the server admitted, and when (its clock, seconds)."""

    @property
    def key(self) -> str:
        return window_key(self.tenant.organization_id, self.rate_class)

    def fullest(self) -> int:
        """The most that any 60 s held, both ends included, by the server's clock."""
        return fullest_window(sorted(self.noted.values()))

    def violations(self) -> list[str]:
        """What is wrong; nothing when the limit was kept and reached."""
        name = f"{self.tenant.plan} {self.rate_class}"
        found = [f"{name}: {text}" for text in self.odd]
        if len(self.noted) != len(self.received):
            found.append(f"{name}: {len(self.received)} answered, {len(self.noted)} noted")
        if self.fullest() != self.limit:
            found.append(f"{name}: the fullest 60 s held {self.fullest()}, not {self.limit}")
        certain = most_within(self.sent, self.received)
        if certain > self.limit:
            found.append(f"{name}: callers saw {certain} within 60 s")
        if len(self.received) <= self.limit:
            found.append(f"{name}: no window's edge was passed")
        if len(self.callers) < 4:
            found.append(f"{name}: not every process and token was served: {self.callers}")
        return found


def fullest_window(moments: list[float], seconds: float = WINDOW_SECONDS) -> int:
    """The most of the sorted moments that lie within so many seconds, both ends included."""
    ends = (bisect_right(moments, first + seconds) - i for i, first in enumerate(moments))
    return max(ends, default=0)


def most_within(sent: list[float], received: list[float], seconds: float = WINDOW_SECONDS) -> int:
    """The most calls that began and ended within so many seconds: a bound from below."""
    begins, ends = sorted(sent), sorted(received)
    counts = (bisect_right(ends, at + seconds) - bisect_left(begins, at) for at in begins)
    return max(counts, default=0)


class Caller:
    """One connection that asks as one token."""

    def __init__(self, journal: Journal, url: str, token: int, chance: random.Random) -> None:
        self.journal = journal
        self.url = urlsplit(url)
        self.token = token
        self.chance = chance

    async def run(self, until: float) -> None:
        """Ask until the time is over."""
        reader, writer = await asyncio.open_connection(self.url.hostname, self.url.port)
        while time.monotonic() < until:
            sent = time.monotonic()
            writer.write(self.request())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(LENGTH.search(head)[1]))
            if self.note(sent, head, body):
                continue
            await asyncio.sleep(self.chance.uniform(0.1, 0.8))
        writer.close()
        await writer.wait_closed()

    def request(self) -> bytes:
        if self.journal.rate_class is RateClass.API_REQUEST:
            line, body = "GET /openai/v1/models", b""
        elif self.chance.random() < 0.9:
            line, body = "POST /api/jobs", b"{}"  # counts whatever its outcome
        else:
            message = {"role": "user", "content": "hi"}
            chat = {"model": "test/echo", "messages": [message], "max_tokens": 1}
            line, body = f"POST {CHAT}", json.dumps(chat).encode()
        return (
            f"{line} HTTP/1.1\r\nHost: {self.url.netloc}\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: Bearer {self.journal.tenant.tokens[self.token]}\r\n"
            "Content-Type: application/json\r\n\r\n"
        ).encode() + body

    def note(self, sent: float, head: bytes, body: bytes) -> bool:
        """Whether it was admitted."""
        journal, status = self.journal, int(head[9:12])
        if status in (200, 400):
            journal.sent.append(sent)
            journal.received.append(time.monotonic())
            journal.callers.add((self.url.netloc, self.token))
            return True
        journal.refused += 1
        error = json.loads(body).get("error", {})
        error.pop("param", None)
        wait = WAIT.search(head)
        if status != 429 or error != REFUSED or not wait or not 1 <= int(wait[1]) <= 59:
            journal.odd.append(f"{head!r} {body!r}"[:300])
        return False


async def read_notes(journals: list[Journal], redis_url: str) -> None:
    """Copy what the server has noted; it forgets nothing that is younger than 60 s."""
    client = redis.asyncio.Redis.from_url(redis_url)
    for journal in journals:
        for member, score in await client.zrange(journal.key, 0, -1, withscores=True):
            journal.noted[member] = score / 1e6
    await client.aclose()


async def _keep_reading(journals: list[Journal], redis_url: str) -> None:
    while True:
        await asyncio.sleep(READ_EVERY)
        await read_notes(journals, redis_url)


async def _measure(
    journals: list[Journal], urls: tuple[str, ...], redis_url: str, seconds: float, seed: int
) -> None:
    chance, until = random.Random(seed), time.monotonic() + seconds
    calls = [
        Caller(journal, urls[n % 2], n // 2 % 2, random.Random(chance.random())).run(until)
        for journal in journals
        for n in range(CONNECTIONS[journal.tenant.plan])
    ]
    reading = asyncio.create_task(_keep_reading(journals, redis_url))
    await asyncio.gather(*calls)
    reading.cancel()
    await read_notes(journals, redis_url)


def measure(
    tenants: list[Tenant], *, urls: tuple[str, ...], redis_url: str, seconds: float, seed: int = 0
) -> list[Journal]:
    """Ask for everything at once, for so long."""
    journals = [
        Journal(tenant, rate_class, limit)
        for tenant in tenants
        for (plan, rate_class), limit in LIMITS.items()
        if plan == tenant.plan
    ]
    asyncio.run(_measure(journals, urls, redis_url, seconds, seed))
    return journals


def table(journals: list[Journal]) -> str:
    """What was measured, in Markdown."""
    rows = [
        "| plan | class | limit | fullest 60 s | admitted | refused |",
        "|---|---|---|---|---|---|",
    ]
    for journal in journals:
        cells = [
            journal.tenant.plan,
            str(journal.rate_class),
            str(journal.limit),
            str(journal.fullest()),
            str(len(journal.received)),
            str(journal.refused),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
