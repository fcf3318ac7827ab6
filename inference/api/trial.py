"""A request that a page makes for a member with a token of theirs: checked as if from outside."""

from __future__ import annotations

from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any

from casola_site.core.errors import Unavailable
from inference.api.interactive import Interactive
from tokens import identity as identities
from tokens.authentication import check_address
from tokens.identity import Identity
from tokens.models import ApiToken
from tokens.permissions import check_scope
from usage.throttling import MAX_READS, StaleIdentity, admit, rate_class_of, refusal

AT_ONCE = 2  # of a process: each holds one of the few threads that serve pages
_room = BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came back, and whether demo weights made it."""

    answer: dict[str, Any]
    is_demo: bool

    @property
    def text(self) -> str:
        """What a chat model said."""
        return self.answer["choices"][0]["message"]["content"] or ""


def run_trial(
    view: type[Interactive], *, token: ApiToken, body: dict[str, Any], address: str
) -> Trial:
    """The whole answer of the endpoint.

    Limits, usage and refusals are those of a request that sends the token's secret. Raises
    ApiError, or DRF's ValidationError.
    """
    identity = _admitted(view, token.hash, address)
    check_scope(identity, view, "POST")
    if not _room.acquire(blocking=False):
        raise Unavailable("Too many tests are running at the moment; try again in a few seconds")
    try:
        call, finished = view.wait(identity, body)
    finally:
        _room.release()
    return Trial(view.answer(call, finished), call.model.is_demo)


def _admitted(view: type[Interactive], digest: str, address: str) -> Identity:
    """The token's Identity, once the request has been counted."""
    for _ in range(MAX_READS):
        identity = identities.load(digest)
        check_address(identity, address)
        try:
            decision = admit(identity, rate_class_of(view, "POST"))
        except StaleIdentity:
            identities.forget(digest)
            continue
        if not decision.admitted:
            raise refusal(decision)
        return identity
    raise Unavailable
