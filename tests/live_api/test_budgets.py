"""Budgets over HTTP: the 402, both lanes, both web processes, streams, and the way out.

`test/paced` costs a dollar a token and says ten, one each 100 ms.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import httpx
import openai
import pytest

from tests.live import wait_until
from tests.live_api.envelope import CHAT, TEXT, assert_envelope, bearer, chat_body, text_body

MODEL = "test/paced"


class Tenant:
    """An organization of its own with an admin token."""

    def __init__(self, site) -> None:
        self.site = site
        made = site.live.organization()
        self.secret, self.path = made["secret"], f"/api/organizations/{made['organization_id']}"

    def call(self, method: str, path: str, body=None, secret=None, url=None) -> httpx.Response:
        headers = bearer(secret or self.secret)
        base = url or self.site.url
        return httpx.request(method, base + path, json=body, headers=headers, timeout=60)

    def budget(self, amount=None, period="monthly") -> dict:
        """Set it, or with no amount read it."""
        body = None if amount is None else {"amount": amount, "period": period}
        answer = self.call("GET" if body is None else "PUT", f"{self.path}/budget", body)
        assert answer.status_code == 200, answer.text
        return answer.json()["budget"]

    def ask(self, tokens: int = 4, secret=None, url=None, **fields) -> httpx.Response:
        body = chat_body(model=MODEL, max_tokens=tokens, **fields)
        return self.call("POST", CHAT, body, secret, url)

    def submit(self, tokens: int = 4, secret=None) -> httpx.Response:
        body = {
            "model_id": MODEL,
            "task": "openai/chat-completion",
            "input": chat_body(model=MODEL, max_tokens=tokens),
        }
        return self.call("POST", "/api/jobs", body, secret)


@pytest.fixture
def tenant(site) -> Tenant:
    return Tenant(site)


@pytest.mark.sqlite
def test_a_used_up_budget_answers_402_everywhere_until_it_is_raised(tenant, site, ended):
    tenant.budget("5")
    assert tenant.ask(4).status_code == 200
    shown = tenant.budget()
    assert (shown["spent"], shown["reserved"], shown["remaining"]) == ("4.00", "0.00", "1.00")
    assert [alert["threshold"] for alert in shown["alerts"]] == [50, 80]

    text = text_body(model=MODEL, max_tokens=4)
    for url in site.urls:
        for answer in (
            tenant.ask(4, url=url),
            tenant.ask(4, url=url, stream=True),
            tenant.ask(2, url=url, n=2),
            tenant.call("POST", TEXT, text, url=url),
        ):
            error = assert_envelope(answer, 402, code="budget_exceeded")
            assert error["message"].startswith(
                "The organization's budget of 5.00 USD per month has 1.00 left; this request may"
            ), error
            assert "The budget resets on " in error["message"]
            assert answer.json()["budget"] == {
                **{key: value for key, value in shown.items() if key != "alerts"},
                "scope": "organization",
            }
    refused = tenant.submit(4)
    assert_envelope(refused, 402, code="budget_exceeded")
    assert refused.headers["content-type"] == "application/json"
    alerts = tenant.budget()["alerts"]
    assert [(one["threshold"], one["refused"]) for one in alerts] == [
        (50, False), (80, False), (100, True),
    ]  # fmt: skip
    # what fits is answered, and models without a price cost nothing
    assert tenant.ask(1).status_code == 200
    assert tenant.call("POST", CHAT, chat_body(model="test/echo")).status_code == 200
    with openai.OpenAI(base_url=f"{site.url}/openai/v1", api_key=tenant.secret) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=1
            )
        assert (caught.value.status_code, caught.value.code) == (402, "budget_exceeded")

    tenant.budget("12")
    for url in site.urls:
        assert tenant.ask(1, url=url).status_code == 200
    job = tenant.submit(4)
    assert job.status_code == 201
    assert ended(job.json()["id"], key=tenant.secret)["status"] == "completed"
    assert (tenant.budget()["spent"], tenant.budget()["reserved"]) == ("11.00", "0.00")
    assert tenant.call("DELETE", f"{tenant.path}/budget").json() == {"budget": None}
    assert tenant.ask(4).status_code == 200


@pytest.mark.sqlite
def test_many_callers_of_two_tokens_and_two_processes_share_the_last_dollars(tenant, site):
    tenant.budget("20")
    path = f"{tenant.path}/tokens"
    tokens = [
        tenant.call("POST", path, {"name": "x", "scopes": ["user:write"]}).json()["secret"]
        for _ in range(2)
    ]
    works = [
        (secret, url, bool(number % 3))
        for number, secret, url in zip(range(24), cycle(tokens), cycle(site.urls), strict=False)
    ]

    def one(work) -> int:
        secret, url, stream = work
        return tenant.ask(4, secret, url, stream=stream).status_code

    with ThreadPoolExecutor(24) as pool:
        statuses = Counter(pool.map(one, works))

    assert statuses == {200: 5, 402: 19}
    shown = tenant.budget()
    assert (shown["spent"], shown["reserved"], shown["remaining"]) == ("20.00", "0.00", "0.00")
    usage = tenant.call("GET", f"{tenant.path}/usage?range=1h").json()["usage"]
    assert usage["totals"]["amount"] == "20.000000000"


def test_a_tokens_own_budget(tenant):
    wish = {
        "name": "x",
        "scopes": ["admin:write"],
        "budget": {"amount": "3", "period": "daily"},
    }
    made = tenant.call("POST", f"{tenant.path}/tokens", wish).json()
    own, path = made["secret"], f"{tenant.path}/tokens/{made['token']['id']}"
    assert tenant.ask(2, own).status_code == 200
    error = assert_envelope(tenant.ask(2, own), 402, code="budget_exceeded")
    assert error["message"].startswith("The token's budget of 3.00 USD per day has 1.00 left;")
    assert tenant.ask(2).status_code == 200  # others are free
    budget = tenant.call("GET", "/api/users/me", secret=own).json()["token"]["budget"]
    assert (budget["spent"], budget["remaining"]) == ("2.00", "1.00")
    minted = tenant.call("POST", f"{tenant.path}/tokens", wish, own)
    assert_envelope(minted, 403, code="forbidden")
    assert tenant.call("PATCH", path, {"budget": None}, own).status_code == 403
    assert tenant.call("PATCH", path, {"budget": None}).status_code == 200
    assert tenant.ask(2, own).status_code == 200


def test_who_leaves_a_stream_leaves_nothing_reserved(tenant):
    tenant.budget("1000")
    headers = bearer(tenant.secret)
    body = chat_body("!tokens 300", model=MODEL, max_tokens=300, stream=True)
    for _ in range(2):
        with httpx.stream(
            "POST", tenant.site.url + CHAT, json=body, headers=headers, timeout=30
        ) as answer:
            lines = answer.iter_lines()  # kept: the answer is closed with it
            next(lines)
            assert tenant.budget()["reserved"] == "300.00"

        def given_back() -> bool:
            return tenant.budget()["reserved"] == "0.00"

        wait_until(given_back, seconds=10, what="the reservation's end")
    assert 2 <= float(tenant.budget()["spent"]) < 600
