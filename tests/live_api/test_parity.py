"""The consumer and the viewset it takes its rules from answer bad requests alike, byte for byte."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from accounts.services import create_organization
from inference import selectors
from tests.live_api import bad_input
from tests.live_api.envelope import (
    CHAT,
    SPEECH,
    TEXT,
    bearer,
    chat_body,
    speech_body,
    text_body,
)
from tests.live_api.test_bad_input import CHAT_SPECIALS, FIELDS, GOOD, PATHS
from tokens.services import issue_token

LONG = ("300 KB", "5,000 items", "5,000 objects")


@pytest.fixture
def secrets(db, monkeypatch) -> dict[str, str]:
    """Tokens of an organization in this process's own database, and the catalog in memory.

    The event loop's database threads would not see what this test's transaction holds.
    """
    call_command("ensure_demo")
    monkeypatch.setattr(selectors, "_catalog", selectors.read_catalog())
    monkeypatch.setattr(selectors, "MEMORY_SECONDS", 3600.0)
    organization, owner = create_organization(
        name="Here", plan_code="unlimited", owner_email="here@example.com"
    )

    def issue(scope: str) -> str:
        return issue_token(
            organization=organization,
            created_by=owner,
            name=scope,
            scopes=[scope],
            now=timezone.now(),
        )[1]

    return {"user_write": issue("user:write"), "user_read": issue("user:read")}


@pytest.fixture
def compare(site, secrets, bare):
    """Send one request to both doors; equal when both refuse it."""
    viewset = Client(raise_request_exception=False)

    def compare(
        label: str,
        content: bytes,
        content_type: str | None = bad_input.JSON,
        scope="user_write",
        path: str = CHAT,
    ) -> int:
        headers = bearer(site.alpha[scope])
        if content_type is not None:
            headers["Content-Type"] = content_type
        one = bare.post(path, content=content, headers=headers)
        if one.status_code < 400:
            return one.status_code
        other = viewset.generic(
            "POST",
            path,
            content,
            content_type=content_type or "",
            HTTP_AUTHORIZATION=f"Bearer {secrets[scope]}",
        )
        assert (one.status_code, one.json()) == (other.status_code, other.json()), label
        for name in ("content-type", "www-authenticate", "retry-after"):
            assert one.headers.get(name) == other.headers.get(name), (label, name)
        return one.status_code

    return compare


def test_bodies(compare):
    for label, body in bad_input.bodies(chat_body()).items():
        assert compare(label, body) >= 400


def test_content_types(compare):
    for label, (content_type, body) in bad_input.content_types(chat_body()).items():
        assert compare(label, body, content_type) >= 400


def test_fields(compare):
    refused = 0
    for name in FIELDS["chat"]:
        for label, value in bad_input.values().items():
            if label in LONG:
                continue
            body = json.dumps({**chat_body(), name: value}).encode()
            refused += compare(f"{name} = {label}", body) >= 400
    assert refused > 100


def test_fields_of_text_completion(compare):
    refused = 0
    for name in FIELDS["text"]:
        for label, value in bad_input.values().items():
            if label in LONG:
                continue
            body = json.dumps({**text_body(), name: value}).encode()
            refused += compare(f"{name} = {label}", body, path=TEXT) >= 400
    assert refused > 50


@pytest.mark.usefixtures("speaking")
def test_fields_of_speech(compare):
    refused = 0
    for name in FIELDS["speech"]:
        for label, value in bad_input.values().items():
            if label in LONG or (name in ("voice", "language") and isinstance(value, str)):
                continue  # which there are is for the Runner to say
            body = json.dumps({**speech_body(), name: value}).encode()
            refused += compare(f"{name} = {label}", body, path=SPEECH) >= 400
    assert refused > 50


@pytest.mark.parametrize("route", ["embeddings", "rerank", "score"])
def test_fields_of_what_is_read(compare, route):
    refused = 0
    for name in FIELDS[route]:
        for label, value in bad_input.values().items():
            if label in LONG:
                continue
            body = json.dumps({**GOOD[route], name: value}).encode()
            refused += compare(f"{name} = {label}", body, path=PATHS[route]) >= 400
    assert refused > 30


def test_specials(compare):
    for number, (fields, param) in enumerate(CHAT_SPECIALS):
        body = json.dumps(chat_body(**fields)).encode()
        assert compare(f"{param} {number}", body) == 400


def test_scope_model_and_method(compare):
    assert compare("scope", b"{", scope="user_read") == 403
    assert compare("model", json.dumps(chat_body(model="no/such")).encode()) == 404
