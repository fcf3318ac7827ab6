"""Every route declares its scope and limit and stands in the schema; the schema tells the truth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from tests.live_api.envelope import (
    CHAT,
    EDITS,
    EMBEDDINGS,
    GHOST_JOB,
    IMAGES,
    RERANK,
    SCORE,
    SPEECH,
    TEXT,
    TRANSCRIPTIONS,
    bearer,
    chat_body,
    embeddings_body,
    image_body,
    job_body,
    rerank_body,
    score_body,
    speech_body,
    text_body,
)
from tokens.authentication import TokenAuthentication
from tokens.permissions import HasScope
from usage.throttling import PlanThrottle

# Routes without a token, by design. A new one is added here on purpose or not at all.
OPEN = {"", "livez", "readyz", "docs", "reference", "openapi.json", "admin"}
# Files of answers: whoever holds a signed address may read them.
OPEN |= {"outputs/<path:name>", "outputs/previews/<path:name>"}
# Sign-in: whoever comes, with a session or without (a page that wants a User asks for one).
SIGN_IN = ("signup", "login", "logout", "verify", "password/reset", "confirm/", "social/")
OWN = ("settings/security", "settings/email")
API = ("openai/", "fal/", "api/")
METHODS = ("get", "post", "put", "patch", "delete")
ALWAYS_DECLARED = {"400", "401", "403", "404", "413", "429", "503"}


def routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, callback) of the whole URLconf, the admin's own apart."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if path != "admin/":
                yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield path, pattern.callback


def test_only_known_routes_are_open():
    """Pages of the dashboard say whom they are for; tests/accounts/test_pages.py looks at those."""
    others = {path for path, view in routes() if not hasattr(view, "page_for")}
    assert {path for path in others if not path.startswith((*API, *SIGN_IN, *OWN))} <= OPEN


def test_a_users_own_pages_ask_for_the_user(bare):
    paths = [path for path, _ in routes() if path.startswith(OWN)]
    assert len(paths) >= 14
    for path in paths:
        answer = bare.get("/" + path.replace("<int:pk>", "1"))
        assert answer.status_code == 302, path
        assert answer.headers["location"].startswith(("/login", "/confirm")), path


CALLING = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
BUDGET = {"amount": "1000000000", "period": "monthly"}
WISHES = [
    ("!call f {}", {"tools": CALLING}),
    ("!think", {"n": 2}),
    ("hi", {"logprobs": True, "top_logprobs": 2}),
]
API_ROUTES = [(path, callback) for path, callback in routes() if path.startswith(API)]


@pytest.mark.parametrize(("path", "callback"), API_ROUTES, ids=[path for path, _ in API_ROUTES])
def test_every_api_view_is_guarded(path, callback):
    view = callback.cls
    assert issubclass(view, ApiViewSet), f"{path}: not an ApiViewSet"
    assert view.authentication_classes == [TokenAuthentication]
    assert view.permission_classes == [HasScope]
    assert view.throttle_classes == [PlanThrottle]
    assert view.error_format == (
        "openai" if path.startswith("openai/") else "fal" if path.startswith("fal/") else "native"
    )
    methods = {method.upper() for method in callback.actions if method in METHODS}
    assert methods
    assert methods <= set(view.required_scopes), f"{path}: a method without a scope"
    assert all(isinstance(scope, Scope) for scope in view.required_scopes.values())
    reads = {scope for method, scope in view.required_scopes.items() if method == "GET"}
    assert all(scope.endswith(":read") for scope in reads)
    writes = {scope for method, scope in view.required_scopes.items() if method != "GET"}
    assert all(scope.endswith(":write") for scope in writes)
    if path.startswith("openai/v1/"):
        for method in methods & {"POST", "PUT"}:
            assert view.rate_classes[method] == "job_submission"


@pytest.fixture(scope="module")
def schema(bare) -> dict[str, Any]:
    response = bare.get("/openapi.json")
    assert response.status_code == 200
    assert "json" in response.headers["content-type"]
    return response.json()


def template(path: str) -> str:
    """A URLconf path as OpenAPI writes it."""
    return "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)


def test_every_api_route_is_in_the_schema(schema):
    expected = {
        (template(path), method)
        for path, callback in API_ROUTES
        for method in callback.actions
        if method in METHODS
    }
    found = {
        (path, method)
        for path, operations in schema["paths"].items()
        for method in operations
        if method in METHODS
    }
    assert found == expected


def test_every_operation_declares_its_errors_and_its_key(schema):
    ids = []
    envelope = {"$ref": "#/components/schemas/ErrorEnvelope"}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if method not in METHODS:
                continue
            ids.append(operation["operationId"])
            assert set(operation["responses"]) >= ALWAYS_DECLARED, (method, path)
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert response["content"]["application/json"]["schema"] == envelope
            assert operation["security"] == [{"ApiToken": []}], (method, path)
            assert "Scope: `" in operation["description"], (method, path)
            assert operation["summary"]
            assert operation["tags"]
            declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path)), (method, path)
            if method in ("get", "delete"):
                assert "requestBody" not in operation
    assert len(ids) == len(set(ids))


def test_the_schema_says_nothing_of_the_inside(bare):
    text = bare.get("/openapi.json").text
    assert not re.search(r"tests?/echo|psycopg|redis|worker:|system:|csl_sk_[0-9A-Za-z]{10}", text)


def resolved(schema: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    """The declared schema of an answer, ready for jsonschema."""
    content = schema["paths"][path][method]["responses"][str(status)]["content"]
    return {**strict(content["application/json"]["schema"]), "components": schema["components"]}


def strict(node: Any) -> Any:
    """OpenAPI 3.0's `nullable` in JSON Schema's words."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: strict(value) for key, value in node.items()}
    if node.pop("nullable", False):
        return {"anyOf": [node, {"type": "null"}]}
    return node


def test_answers_are_what_the_schema_says(site, http, schema):
    schema = {**schema, "components": strict(schema["components"])}
    tokens = "/api/organizations/{organization_id}/tokens"
    own = tokens.format(organization_id=site.alpha["id"])
    job = http.post("/api/jobs", json=job_body(input={"duration_ms": 60_000})).json()["id"]
    chat = {"model_id": "test/echo", "task": "openai/chat-completion", "input": chat_body()}
    done = http.post("/api/jobs", json=chat).json()["id"]
    site.live.wait_job(done, key=site.alpha["user_read"])
    failing = http.post("/api/jobs", json=job_body(input={"error": "worker_error"})).json()["id"]
    site.live.wait_job(failing, key=site.alpha["user_read"])
    wish = {"name": "x", "scopes": ["user:read"], "budget": {"amount": 1.5, "period": "daily"}}
    token = http.post(own, json=wish)
    token_id = token.json()["token"]["id"]
    one_job, one_token = "/api/jobs/{job_id}", tokens + "/{token_id}"
    answers = [
        ("/openai/v1/models", "get", http.get("/openai/v1/models")),
        ("/openai/v1/models/{model}", "get", http.get("/openai/v1/models/test/echo")),
        (CHAT, "post", http.post(CHAT, json=chat_body())),
        *[(CHAT, "post", http.post(CHAT, json=chat_body(text, **more))) for text, more in WISHES],
        (TEXT, "post", http.post(TEXT, json=text_body(n=2, logprobs=2))),
        (TEXT, "post", http.post(TEXT, json={})),
        (SPEECH, "post", http.post(SPEECH, json=speech_body(voice="nobody"))),
        (TRANSCRIPTIONS, "post", http.post(TRANSCRIPTIONS, json={})),
        (IMAGES, "post", http.post(IMAGES, json=image_body())),
        (IMAGES, "post", http.post(IMAGES, json=image_body(n=0))),
        (EDITS, "post", http.post(EDITS, json=image_body())),
        ("/api/voice/models", "get", http.get("/api/voice/models")),
        *reading_answers(http),
        ("/api/model-status", "get", http.get("/api/model-status")),
        ("/api/users/me", "get", http.get("/api/users/me")),
        ("/api/jobs", "post", http.post("/api/jobs", json=job_body())),
        ("/api/jobs", "get", http.get("/api/jobs?limit=3")),
        (CHAT, "post", http.post(CHAT, json=chat_body(**{"async": True}))),
        ("/api/jobs/{job_id}/events", "get", http.get(f"/api/jobs/{GHOST_JOB}/events")),
        ("/api/jobs/{job_id}/data", "delete", http.delete(f"/api/jobs/{failing}/data")),
        ("/api/jobs/{job_id}/data", "delete", http.delete(f"/api/jobs/{job}/data")),
        (one_job, "get", http.get(f"/api/jobs/{job}")),
        (one_job, "get", http.get(f"/api/jobs/{done}")),
        (one_job, "get", http.get(f"/api/jobs/{failing}")),
        ("/api/jobs/{job_id}/cancel", "post", http.post(f"/api/jobs/{job}/cancel")),
        ("/api/jobs/{job_id}/cancel", "post", http.post(f"/api/jobs/{GHOST_JOB}/cancel")),
        (tokens, "get", http.get(own)),
        (tokens, "post", token),
        (one_token, "get", http.get(f"{own}/{token_id}")),
        (one_token, "patch", http.patch(f"{own}/{token_id}", json={"name": "y"})),
        (one_token + "/rotate", "post", http.post(f"{own}/{token_id}/rotate")),
        (tokens + "/presets", "get", http.get(f"{own}/presets")),
        (one_token, "delete", http.delete(f"{own}/{token_id}")),
        (one_token, "get", http.get(f"{own}/none")),
        *organization_answers(site, http),
        (CHAT, "post", http.post(CHAT, json={})),
        (CHAT, "post", http.post(CHAT, json=chat_body(), headers={"Authorization": ""})),
    ]
    for path, method, answer in answers:
        expected = resolved(schema, path, method, answer.status_code)
        try:
            jsonschema.validate(answer.json(), expected)
        except jsonschema.ValidationError as error:
            raise AssertionError(f"{method} {path} {answer.status_code}: {error.message}") from None
        if answer.is_success:
            declared = properties(schema, expected)
            assert declared is None or set(answer.json()) <= declared, path
    assert answers[-1][2].status_code == 401


@pytest.mark.usefixtures("speaking")
def test_an_answer_that_is_sound_is_declared_as_such(http, schema):
    declared = schema["paths"][SPEECH]["post"]["responses"]["200"]["content"]
    assert all(
        kind["schema"] == {"type": "string", "format": "binary"} for kind in declared.values()
    )
    for name in ("mp3", "opus", "aac", "flac", "wav", "pcm"):
        answer = http.post(SPEECH, json=speech_body(response_format=name))
        assert answer.headers["content-type"] in declared
    assert "text/event-stream" in declared


@pytest.mark.usefixtures("hearing")
def test_a_transcript_is_what_the_schema_says(http, schema):
    schema = {**schema, "components": strict(schema["components"])}
    expected = resolved(schema, TRANSCRIPTIONS, "post", 200)
    spoken = http.post(SPEECH, json=speech_body(input="Good morning, Anna.")).content
    for wish in (
        {"response_format": "json"},
        {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]},
    ):
        data = {"model": "whisper-large-v3", **wish}
        answer = http.post(TRANSCRIPTIONS, data=data, files={"file": spoken})
        jsonschema.validate(answer.json(), expected)
        assert set(answer.json()) <= properties(schema, expected)
    declared = schema["paths"][TRANSCRIPTIONS]["post"]["responses"]["200"]["content"]
    assert {"application/json", "text/plain", "text/vtt", "text/event-stream"} == set(declared)


def reading_answers(http) -> list[tuple[str, str, Any]]:
    """Embeddings in both forms, rerank at both paths, score."""
    bodies = [
        (EMBEDDINGS, embeddings_body(["a", "b"])),
        (EMBEDDINGS, embeddings_body(encoding_format="base64", dimensions=8)),
        (EMBEDDINGS, embeddings_body([])),
        (RERANK, rerank_body("x", {"text": "y"}, return_documents=True)),
        (RERANK.replace("v1", "v2"), rerank_body("x", "y", top_n=1)),
        (SCORE, score_body("x", ["y", "z"])),
        (SCORE, {}),
    ]
    return [(path, "post", http.post(path, json=body, timeout=120)) for path, body in bodies]


def organization_answers(site, http) -> list[tuple[str, str, Any]]:
    """One answer of each organization route, in an order that leaves things as they were."""
    top, org = "/api/organizations", "/api/organizations/{organization_id}"
    own = f"{top}/{site.alpha['id']}"
    members = http.get(f"{own}/members")
    me = members.json()["members"][0]["id"]
    made = http.post(f"{own}/invites", json={"role": "viewer"})
    invite = f"{own}/invites/{made.json()['invite']['id']}"
    one_member, one_invite = org + "/members/{member_id}", org + "/invites/{invite_id}"
    accepted = http.post(
        "/api/invites/accept",
        json={"token": made.json()["token"]},
        headers=bearer(site.beta["user_write"]),
    )
    joined = accepted.json()["member"]["id"]
    return [
        (top, "get", http.get(top)),
        (top, "post", http.post(top, json={"name": "Another"})),
        (org, "get", http.get(own)),
        (org, "patch", http.patch(own, json={"name": "alpha"})),
        (org + "/members", "get", members),
        (one_member, "patch", http.patch(f"{own}/members/{me}", json={"role": "owner"})),
        (one_member, "patch", http.patch(f"{own}/members/{me}", json={"role": "viewer"})),
        (one_member, "delete", http.delete(f"{own}/members/{me}")),
        (org + "/transfer", "post", http.post(f"{own}/transfer", json={"member_id": joined})),
        (org + "/transfer", "get", http.get(f"{own}/transfer")),
        (org + "/transfer/accept", "post", http.post(f"{own}/transfer/accept")),
        (org + "/transfer", "delete", http.delete(f"{own}/transfer")),
        (one_member, "delete", http.delete(f"{own}/members/{joined}")),
        (org + "/invites", "get", http.get(f"{own}/invites")),
        (org + "/invites", "post", made),
        (one_invite + "/resend", "post", http.post(f"{invite}/resend")),
        (one_invite, "delete", http.delete(invite)),
        (org + "/audit", "get", http.get(f"{own}/audit")),
        (org + "/usage", "get", http.get(f"{own}/usage?group_by=model,token,member")),
        (org + "/usage", "get", http.get(f"{own}/usage?range=2h")),
        (org + "/limits", "get", http.get(f"{own}/limits")),
        (org + "/budget", "get", http.get(f"{own}/budget")),
        (org + "/budget", "put", http.put(f"{own}/budget", json=BUDGET)),
        (org + "/budget", "put", http.put(f"{own}/budget", json={"amount": 0})),
        (org + "/budget", "get", http.get(f"{own}/budget")),
        (org + "/budget", "delete", http.delete(f"{own}/budget")),
        ("/api/invites/accept", "post", accepted),
        ("/api/invites/accept", "post", http.post("/api/invites/accept", json={"token": "x"})),
    ]


def properties(schema: dict[str, Any], node: dict[str, Any]) -> set[str] | None:
    """Names at the top of an answer."""
    reference = node.get("$ref")
    if reference is None:
        return None
    return set(schema["components"]["schemas"][reference.rsplit("/", 1)[-1]]["properties"])
