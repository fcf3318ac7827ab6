"""The usage page shows the API's sums, and its file is the API's file."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from accounts.models import Role
from tests.factories.accounts import make_member, make_organization
from tests.factories.tokens import make_token
from tests.factories.usage import make_consumption
from tests.pages import Page, visitor
from usage.selectors import MEASURES
from usage.services import record_usage

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


@pytest.fixture
def viewer():
    return visitor(Role.VIEWER)


@pytest.fixture
def manager():
    return visitor(Role.ADMIN)


def use(client, **columns):
    record_usage([make_consumption(client.organization, **columns)])


def api(client, query: str) -> dict:
    _, secret = make_token(organization=client.organization, scopes=["admin:read"])
    path = f"/api/organizations/{client.organization.public_id}/usage?{query}"
    return client.get(path, headers={"authorization": f"Bearer {secret}"}).json()["usage"]


def some_use(client):
    now = timezone.now()
    for number in range(12):
        use(
            client,
            at=now - timedelta(days=number % 4),
            model_id=f"model-{number % 2}",
            status=("completed", "completed", "failed", "cancelled")[number % 4],
            units={"prompt_tokens": number, "completion_tokens": 2 * number, "compute_ms": 70},
            prices={"completion_tokens": ["0.40", 1_000_000]},
        )


@pytest.mark.parametrize(
    "query", ["range=1h", "range=6h", "range=24h", "range=7d", "range=90d", ""]
)
def test_the_totals_are_the_apis(viewer, query):
    some_use(viewer)

    totals = viewer.get(f"/usage?{query}").context["totals"]
    expected = api(viewer, query)["totals"]

    assert {name: str(totals[name]) for name in MEASURES} == {
        name: str(expected[name]) for name in MEASURES
    }


@pytest.mark.parametrize("group", ["model", "task", "status"])
def test_the_rows_are_the_apis_without_the_empty_ones(viewer, group):
    some_use(viewer)

    rows = viewer.get(f"/usage?range=7d&group_by={group}").context["rows"]
    data = api(viewer, f"range=7d&group_by={group}")["data"]

    shown = {(int(row["start"].timestamp()), row["groups"][0][1]): row["sums"] for row in rows}
    expected = {(row["start"], row[group]): row for row in data if row["requests"]}
    assert list(shown) == sorted(shown, reverse=True)
    assert shown.keys() == expected.keys()
    for key, sums in shown.items():
        assert {name: str(sums[name]) for name in MEASURES} == {
            name: str(expected[key][name]) for name in MEASURES
        }


def test_tokens_and_members_are_named(manager):
    ada = make_member(organization=manager.organization)
    token, _ = make_token(organization=manager.organization, created_by=ada, name="Website")
    use(manager, token_id=token.pk, user_id=ada.pk)
    use(manager)

    def groups(name):
        rows = manager.get(f"/usage?group_by={name}").context["rows"]
        return {row["groups"][0][1] for row in rows}

    assert groups("token") == {f"Website ({token.prefix}…{token.last_four})", "no token"}
    assert groups("member") == {ada.email, "service account"}


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MEMBER])
@pytest.mark.parametrize("group", ["token", "member", "model,member"])
def test_who_used_what_is_for_those_who_manage(role, group):
    somebody = visitor(role)
    for page in ("/usage", "/usage.csv"):
        assert somebody.get(f"{page}?group_by={group}").status_code == 403
    page = somebody.get("/usage?group_by=model").content.decode()
    assert "group_by=member" not in page


def test_the_page_says_when_and_in_what(viewer):
    use(viewer, prices={"completion_tokens": ["1.5", 1]})

    page = viewer.get("/usage?range=7d").content.decode()

    for words in ("1.50 <small>USD</small>", "all times in UTC", "As of <time", "Tokens in"):
        assert words in page


def test_units_show_when_there_are_some(viewer):
    use(viewer, units={"audio_ms": 90_500, "images": 1200})

    page = viewer.get("/usage").content.decode()

    for words in ("Audio", "1 min 30 s", "Images", "1,200"):
        assert words in page
    assert "Pixels" not in page


def test_the_file_has_the_same_sums(viewer):
    some_use(viewer)

    response = viewer.get("/usage.csv?range=7d&group_by=model")

    lines = b"".join(response).decode().split("\r\n")
    header = lines[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:-1]]
    totals = viewer.get("/usage?range=7d").context["totals"]
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in response["Content-Disposition"]
    assert sum(Decimal(row["amount"]) for row in rows) == totals["amount"]
    assert sum(int(row["requests"]) for row in rows) == totals["requests"]


def test_links_keep_what_was_chosen(viewer):
    some_use(viewer)

    links = Page(viewer.get("/usage?range=7d&group_by=model").content.decode()).addresses

    for link in ("?range=90d&group_by=model", "?range=7d&group_by=task", "?range=7d"):
        assert link in links
    assert "/usage.csv?range=7d&group_by=model" in links


def test_another_organizations_usage_is_not_shown(viewer):
    record_usage([make_consumption(make_organization())])

    response = viewer.get("/usage")

    assert response.context["totals"]["requests"] == 0
    assert "Nothing was used in this time" in response.content.decode()


@pytest.mark.parametrize(
    "query", ["range=2d", "group_by=moon", "range=1h&group_by=day", "start=never", "end=2026-01-01"]
)
def test_a_wrong_question_is_a_400(viewer, query):
    assert viewer.get(f"/usage?{query}").status_code == 400
    assert viewer.get(f"/usage.csv?{query}").status_code == 400


def test_many_rows_are_cut_on_the_page_and_whole_in_the_file(viewer):
    record_usage(
        [make_consumption(viewer.organization, task=f"task-{number}") for number in range(501)]
    )

    response = viewer.get("/usage?range=7d&group_by=task")
    lines = b"".join(viewer.get("/usage.csv?range=7d&group_by=task")).splitlines()

    assert (len(response.context["rows"]), len(lines)) == (500, 502)
    assert "The newest 500 rows are shown" in response.content.decode()


@pytest.mark.parametrize(("group", "queries"), [("model", 7), ("token", 9), ("member", 9)])
def test_the_page_asks_as_much_for_one_row_as_for_three(
    manager, group, queries, django_assert_num_queries
):
    def fill():
        ada = make_member(organization=manager.organization)
        token, _ = make_token(organization=manager.organization, created_by=ada)
        use(manager, token_id=token.pk, user_id=ada.pk, model_id=f"model-{token.pk}")

    fill()
    manager.get("/usage")
    for _ in range(2):
        with django_assert_num_queries(queries):
            manager.get(f"/usage?range=7d&group_by={group}")
        fill()
        fill()
