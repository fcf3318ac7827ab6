"""Pages by key: every row once, whatever is added or shares a moment."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from casola_site.core.errors import InvalidRequest
from casola_site.core.pagination import page
from jobs.models import Job
from tests.factories.accounts import make_organization
from tests.factories.jobs import make_job
from tests.factories.tokens import make_token
from tokens.models import ApiToken

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
START = timezone.now()


@pytest.fixture
def tokens():
    """Seven tokens, oldest first; three of them made in one moment."""
    organization = make_organization()
    moments = [0, 1, 1, 1, 2, 3, 4]
    return [
        make_token(organization=organization, created_at=START + timedelta(seconds=moment))[0]
        for moment in moments
    ]


def walk(rows, **params):
    seen, after = [], {}
    while True:
        found, has_more = page(rows, {**params, **after})
        seen += found
        if not has_more:
            return seen
        assert len(found) == int(params["limit"])
        after = {"after": found[-1].public_id}


@pytest.mark.parametrize("limit", ["1", "2", "3", "7", "100"])
def test_pages_hold_every_row_once(tokens, limit):
    rows = ApiToken.objects.all()
    assert walk(rows, limit=limit) == tokens[::-1]
    assert walk(rows, limit=limit, order="asc") == tokens


def test_a_row_that_comes_meanwhile_moves_no_page(tokens):
    rows = ApiToken.objects.all()
    first, _ = page(rows, {"limit": "3"})
    make_token(created_at=START + timedelta(hours=1))

    second, _ = page(rows, {"limit": "4", "after": first[-1].public_id})

    assert first + second == tokens[::-1]


def test_the_default_is_twenty():
    organization = make_organization()
    for _ in range(21):
        make_token(organization=organization)

    found, has_more = page(ApiToken.objects.all(), {})

    assert (len(found), has_more) == (20, True)


LIMITS = [
    "",
    "0",
    "-1",
    "101",
    "abc",
    "1.5",
    "1e1",
    " 5",
    "٣",
    "²",
    "9" * 5000,
    "1_0",
    "+5",
    "\x00",
]


@pytest.mark.parametrize(
    ("param", "value"),
    [("limit", value) for value in LIMITS]
    + [("order", value) for value in ("", "up", "DESC", "organization__name", "\x00")]
    + [("after", value) for value in ("ghost", "a\x00b", "é", "x" * 5000, "' OR 1=1 --", "1")],
)
def test_odd_parameters_are_refused(param, value):
    with pytest.raises(InvalidRequest) as refused:
        page(ApiToken.objects.all(), {param: value})
    assert (refused.value.code, refused.value.param) == ("invalid_value", param)


@pytest.mark.parametrize("value", ["ghost", "1", "\x00", "x" * 40])
def test_odd_job_ids_are_refused(value):
    with pytest.raises(InvalidRequest):
        page(Job.objects.all(), {"after": value}, key="pk")


def test_jobs_are_paged_by_their_own_id():
    jobs = [make_job(created_at=START + timedelta(seconds=n)) for n in range(3)]
    assert page(Job.objects.all(), {"after": str(jobs[2].pk)}, key="pk") == (jobs[1::-1], False)


def test_a_strangers_row_is_no_anchor(tokens):
    foreign, _ = make_token()
    mine = ApiToken.objects.filter(organization=tokens[0].organization)

    with pytest.raises(InvalidRequest):
        page(mine, {"after": foreign.public_id})


def test_a_page_takes_as_many_queries_for_one_row_as_for_seven(tokens, django_assert_num_queries):
    after = {"after": tokens[-1].public_id}
    for limit in ("1", "6"):
        with django_assert_num_queries(2):
            page(ApiToken.objects.all(), {**after, "limit": limit})
