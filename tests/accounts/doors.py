"""A browser at the sign-in pages, with an address that nobody has counted attempts of."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from django.core.mail import EmailMessage
from django.test import Client

from accounts.models import AuditEvent, User

PASSWORD = "correct horse battery staple"


def browser(**extra: str) -> Client:
    address = "10." + ".".join(str(secrets.randbelow(256)) for _ in range(3))
    return Client(**{"REMOTE_ADDR": address, "HTTP_USER_AGENT": "Browser/1.0", **extra})


def code_in(mail: EmailMessage) -> str:
    """What stands on its own line of the mail."""
    return re.search(r"^    (\S+)$", mail.body, re.MULTILINE)[1]


def sign_up(client: Client, email: str, password: str = PASSWORD, **more: str):
    return client.post("/signup", {"email": email, "password1": password, **more})


def log_in(client: Client, email: str, password: str = PASSWORD, **more: str):
    return client.post("/login", {"login": email, "password": password, **more})


def verified(client: Client, email: str, outbox: Sequence[EmailMessage]) -> User:
    """Signed up and through."""
    assert sign_up(client, email)["Location"] == "/verify"
    assert client.post("/verify", {"code": code_in(outbox[-1])}).status_code == 302
    return User.objects.get(email=email)


def confirm(client: Client, password: str = PASSWORD, **more: str):
    """Once more, before something that matters."""
    return client.post("/confirm/password", {"password": password, **more})


def signed_in_as(client: Client) -> str:
    """The User's address, or nothing."""
    user_pk = client.session.get("_auth_user_id")
    return User.objects.get(pk=user_pk).email if user_pk else ""


def actions() -> list[str]:
    """Of the audit about Users, oldest first."""
    rows = AuditEvent.objects.filter(action__startswith="user.").order_by("pk")
    return [row.action.removeprefix("user.") for row in rows]
