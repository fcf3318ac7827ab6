"""Token routes under /api."""

from django.urls import path

from tokens.api.views import MeViewSet, PresetViewSet, TokenRotateViewSet, TokenViewSet

urlpatterns = [
    path("users/me", MeViewSet.as_view({"get": "retrieve"})),
    path(
        "organizations/<str:organization_id>/tokens",
        TokenViewSet.as_view({"get": "list", "post": "create"}),
    ),
    path(
        "organizations/<str:organization_id>/tokens/presets",
        PresetViewSet.as_view({"get": "list"}),
    ),
    path(
        "organizations/<str:organization_id>/tokens/<str:token_id>",
        TokenViewSet.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
    ),
    path(
        "organizations/<str:organization_id>/tokens/<str:token_id>/rotate",
        TokenRotateViewSet.as_view({"post": "create"}),
    ),
]
