"""Whatever is sent to an organization route: a 4xx in the envelope or its normal answer, never more.

Bodies' fields and query parameters are taken from the schema, so that none is forgotten.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from accounts.models import AuditEvent, Organization, Plan
from tests.accounts.test_routes import TABLE, Row, route_of, world_for
from tests.accounts.world import Caller, World
from tests.live_api import bad_input
from tests.live_api.envelope import assert_envelope
from tokens.models import ApiToken

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]

WRITES = {}
for row in TABLE:
    if row.method != "GET":
        WRITES.setdefault((row.method, route_of(row.path)), row)
BODILESS = {("POST", "/transfer/accept"), ("POST", "/resend")}
QUERY_VALUES = (
    "", "-1", "0", "1.5", "abc", "1000000000", "9" * 400, "x" * 5_000, "%00", "%ED%A0%80", "%F0%9F%92%A5",
    "null", "%5B%5D", "..%2F..%2Fetc%2Fpasswd", "1e308", "-inf", "2026-13-45", "0001-01-01", "model,model",
)  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


@pytest.fixture(autouse=True)
def first_plan(db):
    Plan.objects.get_or_create(code="free", defaults={"name": "Free"})


def operation(schema: dict[str, Any], row: Row) -> dict[str, Any]:
    path = route_of(row.path).replace("<str:", "{").replace(">", "}")
    return schema["paths"][path][row.method.lower()]


def fields(schema: dict[str, Any], row: Row) -> list[str]:
    """Names at the top of the body that the route declares."""
    content = operation(schema, row).get("requestBody", {}).get("content", {})
    if not content:
        return []
    reference = next(iter(content.values()))["schema"]["$ref"].rsplit("/", 1)[-1]
    return list(schema["components"]["schemas"][reference]["properties"])


def send(world: World, row: Row, content: bytes, query: str = "") -> Any:
    """As the Owner; undone afterwards."""
    secret = world.tokens[Caller("owner", "admin:write")][1]
    with transaction.atomic():
        answer = Client(raise_request_exception=False).generic(
            row.method,
            world.fill(row.path) + query,
            data=content,
            content_type="application/json",
            headers={"Authorization": f"Bearer {secret}"},
        )
        if answer.status_code >= 400:
            assert not AuditEvent.objects.exists()
        transaction.set_rollback(True)
    return answer


def acceptable(row: Row, answer: Any, label: str) -> None:
    if answer.status_code == row.status or (row.method == "GET" and answer.status_code == 200):
        return
    try:
        answer.text = b"".join(answer).decode()
        assert_envelope(answer, (400, 403, 404, 409, 413), path=row.path)
    except AssertionError as error:
        raise AssertionError(f"{label}: {error}") from None


def filled(world: World, row: Row) -> dict[str, Any]:
    return {
        key: world.fill(value) if isinstance(value, str) else value
        for key, value in (row.body or {}).items()
    }


@pytest.mark.parametrize("row", WRITES.values(), ids=str)
def test_each_field_with_each_odd_value(schema, row):
    world = world_for(row)
    names = fields(schema, row)
    has_no_body = any(row.path.endswith(end) for _, end in BODILESS) or row.method == "DELETE"
    assert bool(names) != has_no_body
    for name in names:
        for label, value in bad_input.values().items():
            body = json.dumps({**filled(world, row), name: value}).encode()
            acceptable(row, send(world, row, body), f"{name} = {label}")


@pytest.mark.parametrize("row", WRITES.values(), ids=str)
def test_bodies_that_are_no_request(schema, row):
    if not fields(schema, row):
        return
    world = world_for(row)
    may_be_empty = row.method == "PATCH" or row.path.endswith("/rotate")
    for label, body in bad_input.bodies(filled(world, row)).items():
        answer = send(world, row, body)
        if may_be_empty and not body.strip():  # no body is an empty object: nothing is changed
            assert answer.status_code in (200, 400), (label, answer.content[:300])
            continue
        assert answer.status_code in (400, 413), (label, answer.content[:300])
        acceptable(row, answer, label)


READS = [row for row in TABLE if row.method == "GET"]


@pytest.mark.parametrize("row", READS, ids=str)
def test_odd_query_parameters(schema, row):
    world = world_for(row)
    declared = operation(schema, row).get("parameters", [])
    names = [item["name"] for item in declared if item["in"] == "query"]
    for name in [*names, "ordering", "organization__isnull", "organization_id"]:
        for value in QUERY_VALUES:
            answer = send(world, row, b"", f"?{name}={value}")
            acceptable(row, answer, f"{name}={value[:20]}")


def test_a_body_assigns_only_what_is_declared():
    """Columns that no caller chooses stay as they are, whatever the body names."""
    theirs = World(with_transfer=False)
    for row in WRITES.values():
        world = world_for(row)
        plan, before = (
            world.organization.plan_id,
            set(ApiToken.objects.values_list("pk", flat=True)),
        )
        body = {
            **dict.fromkeys(("organization", "organization_id", "org"), theirs.organization.pk),
            **dict.fromkeys(("user", "user_id", "created_by", "owner"), theirs.other_owner.pk),
            "plan": "unlimited", "plan_id": theirs.organization.plan_id, "status": "suspended",
            "is_system": True, "is_personal": True, "is_service_account": True, "hash": "x" * 64,
            "secret": "csl_sk_mine", "token_hash": "x" * 64, "uses": -5, "expires": 10**10,
            "public_id": "org_mine", "id": "org_mine", "is_staff": True, "from_user": 1,
            **filled(world, row),
        }  # fmt: skip
        secret = world.tokens[Caller("owner", "admin:write")][1]
        with transaction.atomic():
            answer = Client().generic(
                row.method,
                world.fill(row.path),
                data=json.dumps(body),
                content_type="application/json",
                headers={"Authorization": f"Bearer {secret}"},
            )
            if row.path.endswith("transfer/accept"):
                assert answer.status_code == 404
            else:
                assert answer.status_code in (row.status, 400), (str(row), answer.content)
            organization = Organization.objects.get(pk=world.organization.pk)
            assert (organization.plan_id, organization.status, organization.is_system) == (
                plan, "active", False,
            )  # fmt: skip
            made = ApiToken.objects.exclude(pk__in=before)
            for token in made:
                assert token.organization_id == world.organization.pk
                assert token.created_by == world.people["owner"]
                assert token.hash != "x" * 64
            assert not Organization.objects.filter(is_system=True).exists()
            assert theirs.organization.tokens.count() == len(theirs.tokens) + 2
            transaction.set_rollback(True)
