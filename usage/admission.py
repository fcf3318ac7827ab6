"""The door of what is served on an event loop: who asks, and whether the Plan admits one more."""

from __future__ import annotations

from casola_site.core import errors
from casola_site.core.database import in_thread
from casola_site.core.network import client_address
from tokens import identity as identities
from tokens import keys
from tokens.authentication import check_address, refuse
from tokens.identity import Identity
from usage.limits import Decision, RateClass
from usage.throttling import MAX_READS, StaleIdentity, admit_async, refusal

load_identity = in_thread(identities.load)
refuse_async = in_thread(refuse)
Headers = list[tuple[bytes, bytes]]


def joined(headers: Headers) -> dict[bytes, bytes]:
    """Headers by name; a repeated one is joined with commas, as Django does it."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = found[name] + b"," + value if name in found else value
    return found


def address_in(scope: dict[str, object], headers: dict[bytes, bytes]) -> str:
    """Where a connection comes from."""
    peer = (scope.get("client") or ("", 0))[0]  # type: ignore[index]
    forwarded = headers.get(b"x-forwarded-for")
    return client_address(peer, forwarded.decode("latin-1") if forwarded else None)


async def admitted(
    *, authorization: str, address: str, rate_class: RateClass
) -> tuple[Identity, Decision]:
    """Authenticate and count. Raises AuthenticationFailed, RateLimited or Unavailable."""
    try:
        digest = keys.digest(keys.secret_of(authorization))
        identity = identities.cached(digest) or await load_identity(digest)
        for _ in range(MAX_READS):
            check_address(identity, address)
            try:
                decision = await admit_async(identity, rate_class)
            except StaleIdentity:
                identities.forget(digest)
                identity = await load_identity(digest)
                continue
            if not decision.admitted:
                raise refusal(decision)
            return identity, decision
    except errors.AuthenticationFailed:
        raise await refuse_async(address) from None
    raise errors.Unavailable
