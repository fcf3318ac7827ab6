"""What support staff see of sign-in: no secret of a second factor, no session's key."""

from __future__ import annotations

from allauth.account.models import EmailAddress, EmailConfirmation
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from axes.models import AccessAttempt
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.actors import staff_actor
from accounts.sign_in.locks import clear_locks
from casola_site.core.admin import ReadOnlyAdmin
from casola_site.core.clock import now

THEIRS = (EmailAddress, EmailConfirmation, Authenticator, UserSession)
for model in (*THEIRS, SocialAccount, SocialApp, SocialToken):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


@admin.register(EmailAddress)
class EmailAddressAdmin(ReadOnlyAdmin):
    """Addresses, verified or not."""

    list_display = ("email", "user", "verified", "primary")
    list_filter = ("verified",)
    search_fields = ("email", "user__email", "user__public_id")
    list_select_related = ("user",)


@admin.register(Authenticator)
class AuthenticatorAdmin(ReadOnlyAdmin):
    """Which second factors a User has; what they are made of is not shown."""

    list_display = ("user", "type", "created_at", "last_used_at")
    list_filter = ("type",)
    search_fields = ("user__email", "user__public_id")
    list_select_related = ("user",)
    exclude = ("data",)


@admin.register(UserSession)
class UserSessionAdmin(ReadOnlyAdmin):
    """Where Users are signed in."""

    list_display = ("user", "ip", "user_agent", "created_at")
    search_fields = ("user__email", "user__public_id", "ip")
    list_select_related = ("user",)
    fields = ("user", "ip", "user_agent", "created_at")


@admin.register(SocialAccount)
class SocialAccountAdmin(ReadOnlyAdmin):
    """Accounts elsewhere that sign a User in; what the provider told beside the id is not shown."""

    list_display = ("user", "provider", "uid", "date_joined", "last_login")
    list_filter = ("provider",)
    search_fields = ("user__email", "user__public_id", "uid")
    list_select_related = ("user",)
    exclude = ("extra_data",)


@admin.register(AccessAttempt)
class AccessAttemptAdmin(ReadOnlyAdmin):
    """Wrong passwords at the admin's door; five lock it for that account and address."""

    list_display = ("username", "ip_address", "failures_since_start", "attempt_time", "user_agent")
    search_fields = ("username", "ip_address")
    fields = list_display
    actions = ("clear",)

    def has_clear_permission(self, request: HttpRequest) -> bool:
        """Who may delete attempts may clear locks."""
        return request.user.has_perm("axes.delete_accessattempt")

    @admin.action(description="Clear the locks of these attempts", permissions=["clear"])
    def clear(self, request: HttpRequest, queryset: QuerySet[AccessAttempt]) -> None:
        """The accounts may try again from these addresses."""
        cleared = clear_locks(attempts=queryset, by=staff_actor(request), now=now())
        messages.success(request, f"Locks cleared: {cleared}")
