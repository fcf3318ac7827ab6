"""Pages of API tokens."""

from django.urls import path
from django.views.generic import RedirectView

from accounts.permissions import public_page
from tokens import views

urlpatterns = [
    path("tokens", public_page()(RedirectView.as_view(url="/settings/tokens"))),
    path("settings/tokens", views.tokens, name="tokens"),
    path("settings/tokens/new", views.create, name="new-token"),
    path("settings/tokens/env", views.env_file, name="token-env"),
    path("settings/tokens/<str:token_id>", views.token, name="token"),
    path("settings/tokens/<str:token_id>/rotate", views.rotate, name="rotate-token"),
    path("settings/tokens/<str:token_id>/revoke", views.revoke, name="revoke-token"),
]
