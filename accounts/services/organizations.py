"""Creating, naming, choosing, suspending Organizations, and changing their Plan."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils.text import slugify

from accounts.actors import SYSTEM, Actor, user_actor
from accounts.models import (
    Membership,
    Organization,
    OrganizationStatus,
    Plan,
    Role,
    User,
)
from accounts.selectors import find_membership
from accounts.services import authority
from accounts.services.audit import Action, record
from accounts.services.errors import NotAPerson, RoleTooLow, SlugTaken, TooMany
from casola_site.core import ids
from casola_site.core.clock import now as clock_now
from casola_site.core.errors import InvalidRequest
from casola_site.core.tenancy import OrganizationNotFound

FIRST_PLAN = "free"
MAX_OWNED = 10  # Organizations that one User may make; each brings a free allowance
MAX_NAME, MAX_SLUG, MAX_REASON = 120, 60, 500
SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def free_slug(name: str) -> str:
    """A slug nobody has, from the name."""
    base = slugify(name)[:50].strip("-_").replace("_", "-") or "organization"
    if not SLUG.fullmatch(base):
        base = "-".join(re.findall(r"[a-z0-9]+", base)) or "organization"
    if not Organization.objects.filter(slug=base).exists():
        return base
    return f"{base}-{ids.random_text(8).lower()}"


def check_text(value: str, *, limit: int, param: str) -> str:
    """The text without outer blanks. Raises InvalidRequest when empty, too long or unprintable."""
    value = value.strip()
    if not 0 < len(value) <= limit or not value.isprintable():
        raise InvalidRequest(
            f"{param} must be 1 to {limit} printable characters", code="invalid_value", param=param
        )
    return value


def check_address(value: str, *, param: str) -> str:
    """The e-mail address in lower case. Raises InvalidRequest."""
    address = check_text(value, limit=254, param=param).lower()
    try:
        validate_email(address)
    except ValidationError:
        raise InvalidRequest(
            f"{address!r} is no e-mail address", code="invalid_value", param=param
        ) from None
    return address


def check_slug(value: str) -> str:
    """The slug. Raises InvalidRequest unless it is words of a-z and 0-9 joined by hyphens."""
    if len(value) > MAX_SLUG or not SLUG.fullmatch(value):
        raise InvalidRequest(
            f"slug must be 1 to {MAX_SLUG} of a-z and 0-9, with single hyphens in between",
            code="invalid_value",
            param="slug",
        )
    return value


@transaction.atomic
def create_organization(
    *, name: str, plan_code: str, owner_email: str, by: Actor = SYSTEM
) -> tuple[Organization, User]:
    """An Organization with its Owner (an existing User with that e-mail, else a new one).

    Raises InvalidRequest for an unknown plan, a name or an address that cannot be one.
    """
    name = check_text(name, limit=MAX_NAME, param="name")
    owner_email = check_address(owner_email, param="owner_email")
    plan = find_plan(plan_code)
    user = User.objects.filter(email__iexact=owner_email).first()
    if user is None:
        user = User.objects.create_user(owner_email)
    return _found(name, plan, user, by=by, now=clock_now()), user


@transaction.atomic
def open_organization(*, name: str, by: Actor, now: datetime) -> Organization:
    """A User's further Organization on the first Plan; they are its Owner.

    Raises NotAPerson, InvalidRequest, or TooMany for a User who owns MAX_OWNED already.
    """
    name = check_text(name, limit=MAX_NAME, param="name")
    if not by.is_person:
        raise NotAPerson("own an organization")
    user = User.objects.select_for_update(no_key=True).get(pk=by.user_pk)
    owned = Membership.objects.filter(user=user, role=Role.OWNER).count()
    if owned >= MAX_OWNED:
        raise TooMany(f"You own {owned} organizations already; {MAX_OWNED} is the most")
    return _found(name, find_plan(FIRST_PLAN), user, by=by, now=now)


@transaction.atomic
def personal_organization(*, user: User, now: datetime, by: Actor | None = None) -> Organization:
    """The User's personal Organization, made when there is none; for the moment of sign-up."""
    user = User.objects.select_for_update(no_key=True).get(pk=user.pk)
    found = Organization.objects.filter(
        is_personal=True, memberships__user=user, memberships__role=Role.OWNER
    ).first()
    if found is not None:
        return found
    name = "".join(filter(str.isprintable, user.name)).strip() or user.email.partition("@")[0]
    plan = find_plan(FIRST_PLAN)
    made = _found(name[:MAX_NAME], plan, user, by=by or user_actor(user), now=now, is_personal=True)
    if user.current_organization_id is None:
        User.objects.filter(pk=user.pk).update(current_organization=made)
    return made


def _found(
    name: str, plan: Plan, owner: User, *, by: Actor, now: datetime, **columns: Any
) -> Organization:
    organization = _create(name, plan, **columns)
    Membership.objects.create(organization=organization, user=owner, role=Role.OWNER)
    record(
        by=by,
        action=Action.ORGANIZATION_CREATED,
        organization=organization,
        now=now,
        target=organization.public_id,
        target_name=organization.name,
        data={"slug": organization.slug, "plan": plan.code, "owner": owner.public_id},
    )
    return organization


def _create(name: str, plan: Plan, **columns: Any) -> Organization:
    """The row; a namesake that came in the same moment took the plain slug."""
    try:
        with transaction.atomic():
            return Organization.objects.create(
                name=name, slug=free_slug(name), plan=plan, **columns
            )
    except IntegrityError:
        return Organization.objects.create(name=name, slug=free_slug(name), plan=plan, **columns)


def find_plan(code: str, *, param: str = "plan") -> Plan:
    """The Plan. Raises InvalidRequest, which names those that there are."""
    plan = Plan.objects.filter(code=code).first()
    if plan is None:
        known = ", ".join(Plan.objects.values_list("code", flat=True))
        raise InvalidRequest(f"There is no plan {code!r}; there are {known}", param=param)
    return plan


@transaction.atomic
def change_organization(
    *,
    organization: Organization,
    by: Actor,
    now: datetime,
    name: str | None = None,
    slug: str | None = None,
) -> Organization:
    """Give it another name, another slug, or both; the slug does not follow the name.

    Raises RoleTooLow, InvalidRequest or SlugTaken.
    """
    organization = authority.lock(organization)
    authority.manager_role(by, organization)
    wanted: dict[str, str] = {}
    if name is not None:
        wanted["name"] = check_text(name, limit=MAX_NAME, param="name")
    if slug is not None:
        wanted["slug"] = check_slug(slug)
    changed = {key: new for key, new in wanted.items() if new != getattr(organization, key)}
    if not changed:
        return organization
    old = {key: getattr(organization, key) for key in changed}
    try:
        with transaction.atomic():
            Organization.objects.filter(pk=organization.pk).update(**changed)
    except IntegrityError:
        raise SlugTaken(changed["slug"]) from None
    for key, new in changed.items():
        setattr(organization, key, new)
    _note(organization, Action.ORGANIZATION_CHANGED, by, now, data={"old": old, "new": changed})
    return organization


@transaction.atomic
def suspend_organization(
    *, organization: Organization, reason: str, by: Actor, now: datetime
) -> Organization:
    """Close it: from the next request on its tokens open nothing, and open streams end.

    For support staff only; suspending twice changes nothing. Raises RoleTooLow or InvalidRequest.
    """
    reason = check_text(reason, limit=MAX_REASON, param="reason")
    organization = _lock_for_staff(organization, by)
    if organization.status == OrganizationStatus.SUSPENDED:
        return organization
    organization.status = OrganizationStatus.SUSPENDED
    organization.suspended_at, organization.suspended_reason = now, reason
    return _save_status(organization, Action.ORGANIZATION_SUSPENDED, reason, by, now)


@transaction.atomic
def unsuspend_organization(
    *, organization: Organization, reason: str, by: Actor, now: datetime
) -> Organization:
    """Open it again, with the tokens it had. Raises RoleTooLow or InvalidRequest."""
    reason = check_text(reason, limit=MAX_REASON, param="reason")
    organization = _lock_for_staff(organization, by)
    if organization.status == OrganizationStatus.ACTIVE:
        return organization
    organization.status = OrganizationStatus.ACTIVE
    organization.suspended_at, organization.suspended_reason = None, ""
    return _save_status(organization, Action.ORGANIZATION_UNSUSPENDED, reason, by, now)


@transaction.atomic
def change_plan(
    *, organization: Organization, plan_code: str, reason: str, by: Actor, now: datetime
) -> Organization:
    """Put it on another Plan; the new limits hold from the next request on.

    For support staff only. Raises RoleTooLow or InvalidRequest.
    """
    reason = check_text(reason, limit=MAX_REASON, param="reason")
    plan = find_plan(plan_code)
    organization = _lock_for_staff(organization, by)
    old = organization.plan
    if plan.pk == old.pk:
        return organization
    organization.plan = plan
    organization.save(update_fields=["plan"])
    data = {"old": old.code, "new": plan.code}
    _note(organization, Action.PLAN_CHANGED, by, now, reason=reason, data=data)
    authority.renew_stamp(organization)
    return organization


def _lock_for_staff(organization: Organization, by: Actor) -> Organization:
    if not by.is_trusted:
        raise RoleTooLow("Only support staff may do this")
    return authority.lock(organization)


def _save_status(
    organization: Organization, action: Action, reason: str, by: Actor, now: datetime
) -> Organization:
    organization.save(update_fields=["status", "suspended_at", "suspended_reason"])
    _note(organization, action, by, now, reason=reason)
    authority.renew_stamp(organization)
    return organization


def _note(
    organization: Organization, action: Action, by: Actor, now: datetime, **details: Any
) -> None:
    record(
        by=by,
        action=action,
        organization=organization,
        now=now,
        target=organization.public_id,
        target_name=organization.name,
        **details,
    )


def switch_organization(*, user: User, organization: Organization) -> Organization:
    """Make it the one the User's dashboard shows. Raises OrganizationNotFound for a stranger."""
    if find_membership(user=user, organization=organization) is None:
        raise OrganizationNotFound
    User.objects.filter(pk=user.pk).update(current_organization=organization)
    user.current_organization = organization
    return organization
