"""What allauth asks the project: addresses, mail, redirects, secrets at rest."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from smtplib import SMTPException
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.http import HttpRequest
from django.utils.http import url_has_allowed_host_and_scheme

from accounts.actors import origin_of, user_actor
from accounts.models import User
from accounts.services import confirm_address
from casola_site.core.clock import now
from casola_site.core.doors import Door, seconds_to_wait, wait_at
from casola_site.core.error_views import too_many_requests
from casola_site.core.network import address_of

logger = logging.getLogger(__name__)
NEXT_AFTER_RESET = "next_after_reset"


class AccountAdapter(DefaultAccountAdapter):
    """Users known by e-mail address, on a site without a second host."""

    def get_client_ip(self, request: HttpRequest) -> str:
        """As everywhere else: the last hop that is no trusted proxy."""
        return address_of(request)

    def is_safe_url(self, url: str) -> bool:
        """Only paths of this site are gone to after a login."""
        local = url.startswith("/") and url.isprintable()
        return local and url_has_allowed_host_and_scheme(url, allowed_hosts=None)

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        """Where the login that a password's reset ended in was meant to lead, else the start."""
        return request.session.pop(NEXT_AFTER_RESET, "") or super().get_login_redirect_url(request)

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        """Back to the overview."""
        return "/settings/security"

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Send it; one that cannot be sent can be asked for again, and does not fail the page.

        An address gets so many an hour and no more: anybody can type somebody else's.
        """
        if seconds_to_wait(Door.MAIL, address="", account=email.strip().lower()):
            logger.warning("%s was not mailed: too many to one address", template_prefix)
            return
        try:
            super().send_mail(template_prefix, email, context)
        except (SMTPException, OSError) as error:
            logger.warning("%s was not mailed: %s", template_prefix, type(error).__name__)

    def login(self, request: HttpRequest, user: User) -> None:
        """All stages are passed, so the address is verified: by us or by a provider we trust."""
        if user.email_verified_at is None:
            confirm_address(user=user, by=user_actor(user, **origin_of(request)), now=now())
        super().login(request, user)


class SocialAccountAdapter(DefaultSocialAccountAdapter):
    """Providers are switched on by the environment."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """As often as one may sign up with a password."""
        wait = wait_at(Door.SIGN_UP, request)
        if wait:
            raise ImmediateHttpResponse(too_many_requests(request, wait))
        return True

    def populate_user(self, request: HttpRequest, sociallogin: Any, data: dict[str, Any]) -> User:
        """With the name the provider tells."""
        user = super().populate_user(request, sociallogin, data)
        parts = (data.get("first_name"), data.get("last_name"))
        name = data.get("name") or " ".join(filter(None, parts))
        user.name = "".join(filter(str.isprintable, name))[:150]
        return user


class MFAAdapter(DefaultMFAAdapter):
    """Secrets of authenticators are encrypted at rest, under a key that follows from ours."""

    @staticmethod
    def _fernet() -> Fernet:
        key = hashlib.sha256(b"casola.mfa:" + settings.SECRET_KEY.encode()).digest()
        return Fernet(base64.urlsafe_b64encode(key))

    def encrypt(self, text: str) -> str:
        """For the database."""
        return self._fernet().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """From the database.

        What another SECRET_KEY wrote gives another secret, the same each time: no code of the old
        one fits, and recovery codes that are shown can be used.
        """
        try:
            return self._fernet().decrypt(encrypted_text.encode()).decode()
        except InvalidToken:
            logger.warning("a second factor was encrypted under another SECRET_KEY")
            key = b"casola.mfa.lost:" + settings.SECRET_KEY.encode()
            other = hmac.digest(key, encrypted_text.encode(), "sha256")
            return base64.b32encode(other[:20]).decode()
