"""DRF authentication by token; views under it never see a session."""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError
from rest_framework.authentication import BaseAuthentication

from casola_site.core import redis
from casola_site.core.doors import Door, seconds_to_wait
from casola_site.core.errors import AuthenticationFailed, RateLimited
from casola_site.core.network import address_in, address_of
from tokens import identity as identities
from tokens import keys
from tokens.identity import Identity


def refuse(address: str) -> Exception:
    """401, or 429 for an address that has failed too often."""
    wait = seconds_to_wait(Door.FAILED_AUTHENTICATION, address=address)
    return RateLimited(retry_after=wait) if wait else AuthenticationFailed()


def check_address(identity: Identity, address: str) -> None:
    """Raise AuthenticationFailed when the token's IP allow-list does not hold the address."""
    if identity.allowed_ips is not None and not address_in(address, identity.allowed_ips):
        raise AuthenticationFailed


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer csl_…` (also `Key csl_…`)."""

    def authenticate(self, request: Any) -> tuple[Identity, Identity]:
        """(identity, identity). Raises AuthenticationFailed: there are no anonymous callers."""
        address = self._address(request)
        try:
            digest = keys.digest(keys.secret_of(request.META.get("HTTP_AUTHORIZATION")))
            identity = identities.cached(digest)
            if identity is None or not self._is_current(identity):
                identity = identities.load(digest)
            check_address(identity, address)
        except AuthenticationFailed:
            raise refuse(address) from None
        request._request.identity = identity
        return identity, identity

    def reload(self, request: Any) -> Identity:
        """Read the caller again after StaleIdentity. Raises AuthenticationFailed."""
        digest = keys.digest(keys.secret_of(request.META.get("HTTP_AUTHORIZATION")))
        identities.forget(digest)
        identity = identities.load(digest)
        check_address(identity, self._address(request))
        request._request.identity = request.user = request.auth = identity
        return identity

    @staticmethod
    def _address(request: Any) -> str:
        return address_of(request)

    @staticmethod
    def _is_current(identity: Identity) -> bool:
        try:
            found: Any = redis.client().get(identities.stamp_key(identity.organization_id))
        except RedisError:
            return False
        return found is not None and found.decode() == identity.stamp

    def authenticate_header(self, request: Any) -> str:
        """The challenge."""
        return "Bearer"
