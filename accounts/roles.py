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


# What members are told that a role may do.
ROLE_WORDS = {
    "owner": "Everything, also making Owners and handing over the organization.",
    "admin": "Members, invites, settings, the audit and everybody's API tokens; nothing to an Owner.",
    "member": "Uses the API with tokens of their own, and sees usage.",
    "viewer": "Looks at usage and settings, and may have tokens that only read.",
    "disabled": "Nothing. Stays listed; their tokens sleep until they have a role again.",
}
