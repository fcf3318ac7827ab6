"""Settings of sign-up, login and the admin's door; `base` takes them all over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from casola_site.settings import environment as env

LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/start"
LOGOUT_REDIRECT_URL = "/"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",  # refuses at the admin's door, knows nobody itself
    "allauth.account.auth_backends.AuthenticationBackend",
]
# Who may try how often is decided in usage/throttling.py; allauth's own limits are off.
DOOR = "usage.throttling.knock"
SIGNUP_RATE = env.rate("SIGNUP_RATE", "5/h")
MAIL_RATE = "10/h"  # to one address, whoever causes it

ACCOUNT_ADAPTER = "accounts.sign_in.adapters.AccountAdapter"
ACCOUNT_FORMS = {
    "signup": "accounts.sign_in.forms.SignupForm",
    "reset_password": "accounts.sign_in.forms.ResetPasswordForm",
}
ACCOUNT_RATE_LIMITS = False
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_MAX_ATTEMPTS = 5
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = 3
ACCOUNT_PASSWORD_RESET_BY_CODE_ENABLED = True
ACCOUNT_PASSWORD_RESET_BY_CODE_MAX_ATTEMPTS = 5
ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT = 15 * 60
ACCOUNT_LOGIN_ON_PASSWORD_RESET = True
ACCOUNT_CHANGE_EMAIL = True  # one address; a new one takes its place once it is verified
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_SESSION_REMEMBER = True

MFA_ADAPTER = "accounts.sign_in.adapters.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_RATE_LIMITS = False
MFA_TOTP_ISSUER = "Casola"
MFA_TOTP_TOLERANCE = 1

SOCIALACCOUNT_ADAPTER = "accounts.sign_in.adapters.SocialAccountAdapter"
SOCIALACCOUNT_PROVIDERS: dict[str, dict[str, Any]] = {}
SOCIAL_APPS: list[str] = []
SOCIAL_ORIGINS: list[str] = []  # where the forms that lead to a provider may end up

for _provider, _app, _origin, _scope in (
    ("github", env.oauth_client("SOCIAL_GITHUB"), "https://github.com", ["user:email"]),
    (
        "google",
        env.oauth_client("SOCIAL_GOOGLE"),
        "https://accounts.google.com",
        ["profile", "email"],
    ),
    ("openid_connect", env.openid_client("SOCIAL_OPENID", "SOCIAL_OPENID_NAME"), "", None),
):
    if _app is None:
        continue
    if not _origin:
        _server = urlsplit(_app["settings"]["server_url"])
        _origin = f"{_server.scheme}://{_server.netloc}"
    SOCIAL_APPS.append(f"allauth.socialaccount.providers.{_provider}")
    SOCIAL_ORIGINS.append(_origin)
    SOCIALACCOUNT_PROVIDERS[_provider] = {"APPS": [_app], "OAUTH_PKCE_ENABLED": True}
    if _scope is not None:
        SOCIALACCOUNT_PROVIDERS[_provider]["SCOPE"] = _scope

# django-axes guards the admin's door alone (the handler leaves the others to DOOR).
AXES_HANDLER = "accounts.sign_in.staff.AdminAttempts"
AXES_ONLY_ADMIN_SITE = True
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True  # the audit tells it
AXES_ENABLE_ADMIN = False
AXES_USERNAME_FORM_FIELD = "username"
AXES_USERNAME_CALLABLE = "accounts.sign_in.staff.typed_name"
AXES_CLIENT_IP_CALLABLE = "casola_site.core.network.address_of"
AXES_VERBOSE = False
