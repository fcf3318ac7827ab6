"""allauth's, axes' and Django's signals, told to the services."""

from __future__ import annotations

from typing import Any

from allauth.account import signals as account
from allauth.mfa import signals as mfa
from allauth.socialaccount import signals as social
from axes.signals import user_locked_out
from django.contrib.auth.signals import user_logged_out, user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest

from accounts.actors import Actor, ActorKind, origin_of, user_actor
from accounts.models import User
from accounts.services import Action, address_changed, confirm_address, note_sign_in
from casola_site.core.clock import now


def _by(request: HttpRequest, user: User) -> Actor:
    return user_actor(user, **origin_of(request))


def _note(action: Action, request: HttpRequest, user: User, **data: Any) -> None:
    note_sign_in(action=action, user=user, by=_by(request, user), now=now(), data=data)


def _note_stranger(action: Action, request: HttpRequest | None, email: Any, **data: Any) -> None:
    """What somebody who is not signed in did to a User's account, if there is one."""
    user = User.objects.filter(email__iexact=str(email or "").strip()).first()
    if user is not None and request is not None:
        by = Actor(kind=ActorKind.ANYONE, name="signed out", **origin_of(request))
        note_sign_in(action=action, user=user, by=by, now=now(), data=data)


@receiver(account.user_signed_up)
def on_signed_up(request: HttpRequest, user: User, **more: Any) -> None:
    """A new User, whose address may not be verified yet."""
    _note(Action.SIGNED_UP, request, user, method=_method(more.get("sociallogin")))


@receiver(account.user_logged_in)
def on_logged_in(request: HttpRequest, user: User, **more: Any) -> None:
    """All stages passed."""
    records = request.session.get("account_authentication_methods") or []
    methods = [step["type"] if step["method"] == "mfa" else step["method"] for step in records]
    _note(Action.SIGNED_IN, request, user, methods=methods)


@receiver(user_logged_out)
def on_logged_out(request: HttpRequest, user: User | None, **more: Any) -> None:
    """By the User, or because they ended this very session."""
    if user is not None:
        _note(Action.SIGNED_OUT, request, user)


@receiver(user_login_failed)
def on_login_failed(credentials: dict[str, Any], request: HttpRequest | None, **more: Any) -> None:
    """A wrong password."""
    email = credentials.get("email") or credentials.get("username")
    _note_stranger(Action.SIGN_IN_FAILED, request, email, step="password")


@receiver(user_locked_out)
def on_locked_out(request: HttpRequest, username: str, **more: Any) -> None:
    """The attempt that closed the admin's door; those after it are refused without a row."""
    if request.axes_failures_since_start is not None:
        _note_stranger(Action.LOCKED_OUT, request, username)


@receiver(mfa.authentication_failed)
def on_second_factor_failed(request: HttpRequest, user: User, **more: Any) -> None:
    """A wrong code after the right password."""
    _note_stranger(Action.SIGN_IN_FAILED, request, user.email, step="second factor")


@receiver(account.email_confirmed)
def on_email_confirmed(request: HttpRequest, email_address: Any, **more: Any) -> None:
    """The first address, or one that has just taken another's place."""
    user = email_address.user
    confirm_address(user=user, by=_by(request, user), now=now())


@receiver(account.email_changed)
def on_email_changed(
    request: HttpRequest, from_email_address: Any, to_email_address: Any, **more: Any
) -> None:
    """allauth sends it on the first verification as well, when nothing was changed."""
    if from_email_address is None or from_email_address.email == to_email_address.email:
        return
    user = User.objects.get(pk=to_email_address.user_id)
    old = from_email_address.email
    address_changed(user=user, old=old, by=_by(request, user), now=now())


@receiver([account.password_changed, account.password_set])
def on_password_changed(request: HttpRequest, user: User, **more: Any) -> None:
    """By the User while signed in."""
    _note(Action.PASSWORD_CHANGED, request, user)


@receiver(account.password_reset)
def on_password_reset(request: HttpRequest, user: User, **more: Any) -> None:
    """With a mailed code."""
    _note(Action.PASSWORD_RESET, request, user)


@receiver(mfa.authenticator_added)
def on_authenticator_added(request: HttpRequest, user: User, authenticator: Any, **m: Any) -> None:
    """An app, a key or a set of recovery codes."""
    _note(Action.MFA_ADDED, request, user, type=authenticator.type)


@receiver(mfa.authenticator_removed)
def on_authenticator_removed(
    request: HttpRequest, user: User, authenticator: Any, **more: Any
) -> None:
    """An app, a key, or the recovery codes with the last of them."""
    _note(Action.MFA_REMOVED, request, user, type=authenticator.type)


@receiver(mfa.authenticator_reset)
def on_authenticator_reset(request: HttpRequest, user: User, authenticator: Any, **m: Any) -> None:
    """New recovery codes in place of the old."""
    _note(Action.MFA_ADDED, request, user, type=authenticator.type)


@receiver(social.social_account_added)
def on_social_added(request: HttpRequest, sociallogin: Any, **more: Any) -> None:
    """A provider's account opens this User's from now on."""
    _note(Action.PROVIDER_ADDED, request, sociallogin.user, provider=_method(sociallogin))


@receiver(social.social_account_removed)
def on_social_removed(request: HttpRequest, socialaccount: Any, **more: Any) -> None:
    """It does so no more."""
    _note(Action.PROVIDER_REMOVED, request, socialaccount.user, provider=socialaccount.provider)


def _method(sociallogin: Any) -> str:
    return sociallogin.account.provider if sociallogin is not None else "password"
