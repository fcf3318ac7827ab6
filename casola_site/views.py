"""The first page, the choice of colours, and the interactive API browser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from csp.decorators import csp_update
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import Resolver404, resolve
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from accounts.permissions import public_page
from accounts.selectors import offered_plans
from accounts.shell import THEMES
from casola_site.core.network import base_url

YEAR = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A line in the first page's list."""

    method: str
    path: str
    words: str


ENDPOINTS = (
    Endpoint("POST", "/openai/v1/chat/completions", "Chat, tools, structured output, pictures"),
    Endpoint("POST", "/openai/v1/completions", "Plain text completions"),
    Endpoint("POST", "/openai/v1/embeddings", "Texts as vectors"),
    Endpoint("POST", "/openai/v1/rerank", "Documents by relevance"),
    Endpoint("POST", "/openai/v1/audio/speech", "Text to speech"),
    Endpoint("POST", "/openai/v1/audio/transcriptions", "Speech to text"),
    Endpoint("POST", "/openai/v1/audio/translations", "Speech to English text"),
    Endpoint("POST", "/openai/v1/images/generations", "Pictures from text"),
    Endpoint("POST", "/openai/v1/images/edits", "Pictures changed, whole or within a mask"),
    Endpoint("POST", "/openai/v1/files", "Files, kept byte for byte"),
    Endpoint("GET", "/openai/v1/models", "The models that your key may use"),
    Endpoint("POST", "/api/jobs", "Work that may wait, films too: submit, follow, cancel"),
    Endpoint("GET", "/api/model-status", "Which models are online"),
    Endpoint("GET", "/api/users/me", "Whose key this is, and what it reaches"),
)


@lru_cache(maxsize=1)
def served() -> tuple[Endpoint, ...]:
    """Those that this version has."""
    found = []
    for endpoint in ENDPOINTS:
        try:
            resolve(endpoint.path)
        except Resolver404:
            continue
        found.append(endpoint)
    return tuple(found)


@public_page()
def home(request: HttpRequest) -> HttpResponse:
    """What this is, how to make the first call, and what each Plan allows."""
    context = {
        "base_url": base_url(request),
        "sample_model": settings.SAMPLE_MODEL,
        "endpoints": served(),
        "plans": offered_plans(),
    }
    return render(request, "home.html", context)


@public_page(methods="POST")
def theme(request: HttpRequest) -> HttpResponse:
    """Keep the chosen colours in a cookie, and back to the page."""
    wanted = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(wanted, allowed_hosts=None)
    response = redirect(wanted if is_ours and wanted.startswith("/") else "/")
    chosen = request.POST.get("theme", "")
    if chosen in THEMES:
        # Scripts may read it: the switch works without asking the server.
        response.set_cookie(
            "theme", chosen, max_age=YEAR, samesite="Lax", secure=request.is_secure()
        )
    else:
        response.delete_cookie("theme", samesite="Lax")
    return response


class SchemaView(SpectacularAPIView):
    """/openapi.json."""

    renderer_classes = [OpenApiJsonRenderer]
    throttle_classes: list[Any] = []


class DocsView(SpectacularSwaggerSplitView):
    """Swagger UI from our own static files, without inline script."""

    url_name = "schema"
    template_name = "docs.html"
    throttle_classes: list[Any] = []


docs = never_cache(csp_update({"style-src": ["'self'", "'unsafe-inline'"]})(DocsView.as_view()))
