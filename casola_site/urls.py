"""Every route of the product."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from casola_site.core import health, output_views
from casola_site.views import SchemaView, docs, home, theme
from inference.preview_views import preview

urlpatterns: list[URLPattern | URLResolver] = [
    path("", home, name="home"),
    path("theme", theme, name="theme"),
    path("livez", health.livez),
    path("readyz", health.readyz),
    path("docs", docs, name="docs"),
    path("reference", docs),
    path("openapi.json", SchemaView.as_view(), name="schema"),
    path("", include("accounts.sign_in.urls")),
    path("openai/", include("jobs.api.openai_urls")),
    path("openai/", include("inference.api.openai.urls")),
    path("api/", include("accounts.api.urls")),
    path("api/", include("tokens.api.urls")),
    path("api/", include("usage.api.urls")),
    path("api/", include("jobs.api.urls")),
    path("api/", include("inference.api.native.urls")),
    path("outputs/previews/<path:name>", preview),
    path("outputs/<path:name>", output_views.output, name="output"),
    path("", include("accounts.urls")),
    path("", include("tokens.urls")),
    path("", include("usage.urls")),
    path("", include("inference.urls")),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
]

handler400 = "casola_site.core.error_views.bad_request"
handler403 = "casola_site.core.error_views.permission_denied"
handler404 = "casola_site.core.error_views.page_not_found"
handler500 = "casola_site.core.error_views.server_error"
