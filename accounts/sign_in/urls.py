"""Pages of sign-up, login and a User's security; names are those that allauth asks for."""

from __future__ import annotations

from allauth.account import views as account
from allauth.account.internal.stagekit import unstash_login
from allauth.mfa.base import views as mfa
from allauth.mfa.recovery_codes import views as recovery_codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as keys
from allauth.socialaccount import views as social
from allauth.urls import build_provider_urlpatterns
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver, include, path

from accounts.sign_in import views
from casola_site.core.doors import Door, through


def _typed(field: str):  # noqa: ANN202 - a function of the request
    return lambda request: request.POST.get(field, "")


def _pending(request: HttpRequest) -> str:
    """Whose second factor is asked for."""
    login = unstash_login(request, peek=True)
    return login.user.public_id if login is not None and login.user is not None else ""


def _signed_in(request: HttpRequest) -> str:
    return request.user.public_id if request.user.is_authenticated else ""


SECURITY = "settings/security"
KEYS = f"{SECURITY}/keys"
CODES = f"{SECURITY}/recovery-codes"
SECOND = Door.SECOND_FACTOR

urlpatterns: list[URLPattern | URLResolver] = [
    path("signup", through(Door.SIGN_UP, account.signup), name="account_signup"),
    path("login", through(Door.LOGIN, account.login, _typed("login")), name="account_login"),
    path("login/inactive", account.account_inactive, name="account_inactive"),
    path("login/code", through(SECOND, mfa.authenticate, _pending), name="mfa_authenticate"),
    path("logout", account.logout, name="account_logout"),
    path(
        "verify",
        through(Door.CODE, views.VerifyView.as_view()),
        name="account_email_verification_sent",
    ),
    path(
        "password/reset",
        through(Door.RESET, account.password_reset, _typed("email")),
        name="account_reset_password",
    ),
    path(
        "password/reset/code",
        through(Door.CODE, views.ResetCodeView.as_view()),
        name="account_confirm_password_reset_code",
    ),
    path(
        "password/reset/new",
        views.NewPasswordView.as_view(),
        name="account_complete_password_reset",
    ),
    path(
        "password/reset/done",
        account.password_reset_from_key_done,
        name="account_password_reset_completed",
    ),
    # Once more, before something that matters
    path(
        "confirm/password",
        through(SECOND, account.reauthenticate, _signed_in),
        name="account_reauthenticate",
    ),
    path(
        "confirm/code", through(SECOND, mfa.reauthenticate, _signed_in), name="mfa_reauthenticate"
    ),
    path("confirm/key", keys.reauthenticate_webauthn, name="mfa_reauthenticate_webauthn"),
    # A User's own settings
    path("settings/email", through(Door.RESET, account.email, _signed_in), name="account_email"),
    path(SECURITY, views.SecurityView.as_view(), name="mfa_index"),
    path(
        f"{SECURITY}/password",
        through(SECOND, account.password_change, _signed_in),
        name="account_change_password",
    ),
    path(f"{SECURITY}/password/set", account.password_set, name="account_set_password"),
    path(f"{SECURITY}/sessions", views.SessionsView.as_view(), name="usersessions_list"),
    path(f"{SECURITY}/app", totp.activate_totp, name="mfa_activate_totp"),
    path(f"{SECURITY}/app/off", totp.deactivate_totp, name="mfa_deactivate_totp"),
    path(CODES, recovery_codes.view_recovery_codes, name="mfa_view_recovery_codes"),
    path(
        f"{CODES}/download",
        recovery_codes.download_recovery_codes,
        name="mfa_download_recovery_codes",
    ),
    path(
        f"{CODES}/new", recovery_codes.generate_recovery_codes, name="mfa_generate_recovery_codes"
    ),
    path(KEYS, keys.list_webauthn, name="mfa_list_webauthn"),
    path(f"{KEYS}/add", keys.add_webauthn, name="mfa_add_webauthn"),
    path(f"{KEYS}/<int:pk>", keys.edit_webauthn, name="mfa_edit_webauthn"),
    path(f"{KEYS}/<int:pk>/remove", keys.remove_webauthn, name="mfa_remove_webauthn"),
    path(f"{SECURITY}/connections", social.connections, name="socialaccount_connections"),
    # Providers
    path("social/signup", through(Door.SIGN_UP, social.signup), name="socialaccount_signup"),
    path("social/cancelled", social.login_cancelled, name="socialaccount_login_cancelled"),
    path("social/error", social.login_error, name="socialaccount_login_error"),
    path("social/", include(build_provider_urlpatterns())),
]
