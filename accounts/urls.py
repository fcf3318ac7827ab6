"""Pages about Organizations and their members."""

from django.urls import path

from accounts import views

urlpatterns = [
    path("join/<str:token>", views.join, name="join"),
    path("organizations/new", views.create, name="new-organization"),
    path("organizations/switch", views.switch, name="switch-organization"),
    path("settings/organization", views.organization, name="organization"),
    path("settings/organization/leave", views.leave, name="leave"),
    path("settings/ownership/accept", views.accept, name="accept-ownership"),
    path("settings/ownership/end", views.end, name="end-ownership"),
    path("settings/audit", views.audit, name="audit"),
    path("settings/members", views.members, name="members"),
    path("settings/members/<str:member_id>/role", views.change, name="change-role"),
    path("settings/members/<str:member_id>/remove", views.remove, name="remove-member"),
    path("settings/members/<str:member_id>/ownership", views.offer, name="offer-ownership"),
    path("settings/members/invites", views.invite, name="invite"),
    path("settings/members/invites/<str:invite_id>/resend", views.resend, name="resend-invite"),
    path("settings/members/invites/<str:invite_id>/revoke", views.revoke, name="revoke-invite"),
]
