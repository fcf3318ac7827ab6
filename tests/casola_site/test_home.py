"""The first page."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import resolve

from accounts.models import Plan, Role
from tests.pages import Page, visitor

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def test_it_shows_a_call_that_can_be_pasted():
    page = Client().get("/").content.decode()

    assert "curl http://testserver/openai/v1/chat/completions" in page
    assert "Qwen/Qwen3.5-4B" in page
    assert {"/signup", "/login", "/docs"} <= set(Page(page).addresses)


def test_the_plan_table_is_that_of_the_rows():
    Plan.objects.filter(code="pro").update(name="Professional", max_running_jobs=7)

    response = Client().get("/")

    rows = [
        (
            plan.name,
            plan.api_requests_per_minute,
            plan.job_submissions_per_minute,
            plan.max_running_jobs,
        )
        for plan in response.context["plans"]
    ]
    assert rows == [
        ("Free", 60, 10, 2),
        ("Professional", 600, 100, 7),
        ("Enterprise", 6000, 1000, 200),
    ]
    for words in ("6,000", "1,000", "200"):
        assert words in response.content.decode()


def test_it_lists_endpoints_that_are_there():
    endpoints = Client().get("/").context["endpoints"]

    assert "/openai/v1/chat/completions" in [each.path for each in endpoints]
    for endpoint in endpoints:
        assert resolve(endpoint.path)


def test_who_is_signed_in_is_shown_the_way_in():
    page = Page(visitor(Role.OWNER).get("/").content.decode())

    assert "/start" in page.addresses
    assert "/signup" not in page.addresses
