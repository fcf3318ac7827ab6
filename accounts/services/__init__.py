"""Everything that changes Users' places in Organizations, and the audit that tells of it."""

from accounts.services.audit import Action, record
from accounts.services.budgets import change_budget
from accounts.services.errors import (
    InviteNotFound,
    LastOwner,
    MemberNotFound,
    NotAPerson,
    RoleTooLow,
    SlugTaken,
    TooMany,
    TransferNotFound,
)
from accounts.services.invites import (
    InviteTerms,
    accept_invite,
    accept_invite_as,
    create_invite,
    find_by_token,
    find_invite,
    join_url,
    resend_invite,
    revoke_invite,
)
from accounts.services.members import change_role, remove_member
from accounts.services.organizations import (
    change_organization,
    change_plan,
    check_text,
    create_organization,
    free_slug,
    open_organization,
    personal_organization,
    suspend_organization,
    switch_organization,
    unsuspend_organization,
)
from accounts.services.sign_in import address_changed, confirm_address, note_sign_in
from accounts.services.transfers import (
    accept_transfer,
    end_transfer,
    find_open_transfer,
    offer_transfer,
)

__all__ = [
    "Action",
    "InviteNotFound",
    "InviteTerms",
    "LastOwner",
    "MemberNotFound",
    "NotAPerson",
    "RoleTooLow",
    "SlugTaken",
    "TooMany",
    "TransferNotFound",
    "accept_invite",
    "accept_invite_as",
    "accept_transfer",
    "address_changed",
    "change_budget",
    "change_organization",
    "change_plan",
    "change_role",
    "check_text",
    "confirm_address",
    "create_invite",
    "create_organization",
    "end_transfer",
    "find_by_token",
    "find_invite",
    "find_open_transfer",
    "free_slug",
    "join_url",
    "note_sign_in",
    "offer_transfer",
    "open_organization",
    "personal_organization",
    "record",
    "remove_member",
    "resend_invite",
    "revoke_invite",
    "suspend_organization",
    "switch_organization",
    "unsuspend_organization",
]
