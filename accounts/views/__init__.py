"""Pages about Organizations and their members."""

from accounts.views.audit import audit
from accounts.views.invites import invite, resend, revoke
from accounts.views.join import join
from accounts.views.members import change, members, remove
from accounts.views.organizations import create, leave, organization, switch
from accounts.views.ownership import accept, end, offer

__all__ = [
    "accept",
    "audit",
    "change",
    "create",
    "end",
    "invite",
    "join",
    "leave",
    "members",
    "offer",
    "organization",
    "remove",
    "resend",
    "revoke",
    "switch",
]
