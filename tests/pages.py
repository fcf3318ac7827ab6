"""What tests of pages share: somebody at a browser, and what a page holds."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from django.test import Client
from django.utils import timezone

from accounts.models import Membership, Organization, Role, User
from tests.factories.accounts import make_organization, make_user


class Page(HTMLParser):
    """The links, loaded things, inline code, ids and form fields of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.described: list[str] = []
        self.fields: dict[str, str] = {}
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [
            found[name] for name in ("href", "src", "action", "srcset") if found.get(name)
        ]
        self.inline += [name for name in found if name.startswith("on") or name == "style"]
        self._in_script = tag == "style" or (tag == "script" and "src" not in found)
        self.ids += [found["id"]] if "id" in found else []
        self.described += (found.get("aria-describedby") or "").split()
        if tag == "input" and found.get("type") == "hidden":
            self.fields[found["name"]] = found.get("value", "")

    def handle_data(self, data):
        if self._in_script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag):
        self._in_script = False


def secrets_in(text: str) -> set[str]:
    """The whole secrets that a text shows."""
    return set(re.findall(r"csl_sk_[0-9A-Za-z]{42}", text))


class Visitor(Client):
    """A browser in which a User is signed in."""

    user: User
    organization: Organization

    def refresh(self) -> Membership:
        return Membership.objects.get(user=self.user, organization=self.organization)


def visitor(
    role: str | None = Role.OWNER,
    organization: Organization | None = None,
    *,
    verified: bool = True,
    **options,
) -> Visitor:
    """Somebody of the role in the Organization (a new one when none is given), signed in."""
    client = Visitor(**options)
    client.organization = organization or make_organization()
    client.user = make_user(email_verified_at=timezone.now() if verified else None)
    if role is not None:
        Membership.objects.create(organization=client.organization, user=client.user, role=role)
    client.force_login(client.user)
    return client
