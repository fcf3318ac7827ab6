"""The first page and the interactive API browser."""

from __future__ import annotations

from typing import Any

from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from casola_site.core.network import base_url


def home(request: HttpRequest) -> HttpResponse:
    """What this is and how to make the first call."""
    return render(request, "home.html", {"base_url": base_url(request)})


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
