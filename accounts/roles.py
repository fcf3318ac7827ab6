"""How far each role reaches (pure)."""

from __future__ import annotations

from casola_site.core.scopes import TENANT_SCOPES, Scope, closure

ROLE_SCOPES: dict[str, frozenset[Scope]] = {
    "owner": TENANT_SCOPES,
    "admin": TENANT_SCOPES,
    "member": closure([Scope.USER_WRITE]),
    "viewer": closure([Scope.USER_READ]),
    "disabled": frozenset(),
}
SYSTEM_ROLES = frozenset({"owner", "admin"})


def scopes_of_role(role: str, *, system_organization: bool) -> frozenset[Scope]:
    """The largest closure a token of this role may have."""
    scopes = ROLE_SCOPES.get(role, frozenset())
    if system_organization and role in SYSTEM_ROLES:
        return frozenset(Scope)
    return scopes
