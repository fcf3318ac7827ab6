"""Organization routes under /api."""

from django.urls import path

from accounts.api import views

ORGANIZATION = "organizations/<str:organization_id>"

urlpatterns = [
    path(
        "organizations",
        views.OrganizationListViewSet.as_view({"get": "list", "post": "create"}),
    ),
    path(
        ORGANIZATION,
        views.OrganizationViewSet.as_view({"get": "retrieve", "patch": "partial_update"}),
    ),
    path(f"{ORGANIZATION}/members", views.MemberViewSet.as_view({"get": "list"})),
    path(
        f"{ORGANIZATION}/members/<str:member_id>",
        views.MemberViewSet.as_view({"patch": "partial_update", "delete": "destroy"}),
    ),
    path(
        f"{ORGANIZATION}/transfer",
        views.TransferViewSet.as_view({"get": "retrieve", "post": "create", "delete": "destroy"}),
    ),
    path(
        f"{ORGANIZATION}/transfer/accept",
        views.TransferAcceptViewSet.as_view({"post": "create"}),
    ),
    path(
        f"{ORGANIZATION}/invites",
        views.InviteViewSet.as_view({"get": "list", "post": "create"}),
    ),
    path(
        f"{ORGANIZATION}/invites/<str:invite_id>",
        views.InviteViewSet.as_view({"delete": "destroy"}),
    ),
    path(
        f"{ORGANIZATION}/invites/<str:invite_id>/resend",
        views.InviteResendViewSet.as_view({"post": "create"}),
    ),
    path(f"{ORGANIZATION}/audit", views.AuditViewSet.as_view({"get": "list"})),
    path("invites/accept", views.InviteAcceptViewSet.as_view({"post": "create"})),
]
