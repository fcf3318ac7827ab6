"""Who does something, and from where: what a service needs to decide and the audit to tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import models

from casola_site.core.network import address_of


class ActorKind(models.TextChoices):
    """In what capacity."""

    USER = "user"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    STAFF = "staff"
    SYSTEM = "system"
    ANYONE = "anyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A signed-in User, a token, support staff, the system itself (commands, sweeps), or anyone.

    `user_pk` is the User whose role decides; a service account has none. `id` and `name` are what
    the audit shows (anyone, not being signed in, has no id); for a token `on_behalf_of` is its
    member's public id.
    """

    kind: ActorKind
    id: str = ""
    name: str = ""
    user_pk: int | None = None
    on_behalf_of: str = ""
    ip: str = ""
    request_id: str = ""

    @property
    def is_trusted(self) -> bool:
        """Support staff and the system are not bound by roles."""
        return self.kind in (ActorKind.STAFF, ActorKind.SYSTEM)

    @property
    def is_person(self) -> bool:
        """A User, at the keyboard or through a token of theirs."""
        return self.user_pk is not None and not self.is_trusted


SYSTEM = Actor(kind=ActorKind.SYSTEM, name="system")


def user_actor(user: Any, *, ip: str = "", request_id: str = "") -> Actor:
    """A signed-in User."""
    return Actor(
        kind=ActorKind.USER,
        id=user.public_id,
        name=user.email,
        user_pk=user.pk,
        ip=ip,
        request_id=request_id,
    )


def token_actor(identity: Any, *, ip: str = "", request_id: str = "") -> Actor:
    """The holder of a token; `identity` is what authentication found."""
    is_member = not identity.is_service_account
    return Actor(
        kind=ActorKind.TOKEN,
        id=identity.token_id,
        user_pk=identity.user_pk if is_member else None,
        ip=ip,
        request_id=request_id,
    )


def actor_of(request: Any) -> Actor:
    """Who sends an API request (its token) or a page's form (its User)."""
    where = origin_of(request)
    identity = getattr(request, "auth", None)
    if identity is not None:
        return token_actor(identity, **where)
    return user_actor(request.user, **where)


def staff_actor(request: Any) -> Actor:
    """A member of the support staff, in the admin."""
    user = request.user
    where = origin_of(request)
    return Actor(kind=ActorKind.STAFF, id=user.public_id, name=user.email, user_pk=user.pk, **where)


def origin_of(request: Any) -> dict[str, str]:
    """`ip` and `request_id` of a request."""
    return {"ip": address_of(request), "request_id": getattr(request, "request_id", "")}
