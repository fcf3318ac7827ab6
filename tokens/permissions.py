"""DRF permission: the scope a view declares, checked against the token's closure."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission

from casola_site.core.errors import InsufficientScope
from tokens.identity import Identity


def check_scope(identity: Identity, view: Any, method: str) -> None:
    """Raise InsufficientScope unless the identity holds what `view.required_scopes` names.

    HEAD needs what GET needs. A method the view does not declare needs no scope: it ends as 405.
    """
    scope = view.required_scopes.get("GET" if method == "HEAD" else method)
    if scope is not None and scope not in identity.scopes:
        raise InsufficientScope(scope)


class HasScope(BasePermission):
    """Denies by default: a view without `required_scopes` is refused."""

    def has_permission(self, request: Any, view: Any) -> bool:
        """True, or raises InsufficientScope."""
        if not hasattr(view, "required_scopes"):
            return False
        check_scope(request.auth, view, request.method)
        return True
