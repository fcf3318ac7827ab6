"""The doors without a token: what is limited there, and the page that refuses."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string

from casola_site.core.error_views import too_many_requests
from casola_site.core.network import address_of, is_own_machine

View = Callable[..., Any]


class Door(StrEnum):
    """Where somebody comes in, or tries to, before a token or a session tells who they are."""

    FAILED_AUTHENTICATION = "failed-authentication"
    SIGN_UP = "sign-up"
    LOGIN = "login"
    RESET = "reset"
    MAIL = "mail"
    CODE = "code"
    SECOND_FACTOR = "second-factor"
    INVITE = "invite"


def seconds_to_wait(door: Door, *, address: str, account: str = "") -> int:
    """Count an attempt; 0 when it may go on, else the seconds until there is room again."""
    return import_string(settings.DOOR)(door, address=address, account=account)


def wait_at(door: Door, request: HttpRequest, account: str = "") -> int:
    """`seconds_to_wait` for a page's request.

    Whoever signs up at the very machine they run is not counted: see `is_own_machine`.
    """
    if door is Door.SIGN_UP and is_own_machine(request):
        return 0
    return seconds_to_wait(door, address=address_of(request), account=account)


def through(door: Door, view: View, account: Callable[[HttpRequest], str] | None = None) -> View:
    """The view behind the door: a POST too many gets the 429 page with Retry-After."""

    @wraps(view)
    def behind(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method == "POST":
            whose = account(request).strip().lower()[:254] if account else ""
            wait = wait_at(door, request, whose)
            if wait:
                return too_many_requests(request, wait)
        return view(request, *args, **kwargs)

    return behind
