"""Creating Organizations and their first member."""

from __future__ import annotations

from django.db import transaction
from django.utils.text import slugify

from accounts.models import Membership, Organization, Plan, Role, User
from casola_site.core import ids
from casola_site.core.errors import InvalidRequest


def free_slug(name: str) -> str:
    """A slug nobody has, from the name."""
    base = slugify(name)[:50] or "organization"
    if not Organization.objects.filter(slug=base).exists():
        return base
    return f"{base}-{ids.random_text(6).lower()}"


@transaction.atomic
def create_organization(
    *, name: str, plan_code: str, owner_email: str
) -> tuple[Organization, User]:
    """An Organization with its Owner (an existing User with that e-mail, else a new one).

    Raises InvalidRequest for an unknown plan.
    """
    plan = Plan.objects.filter(code=plan_code).first()
    if plan is None:
        known = ", ".join(Plan.objects.values_list("code", flat=True))
        raise InvalidRequest(f"There is no plan {plan_code!r}; there are {known}", param="plan")
    user = User.objects.filter(email__iexact=owner_email.strip()).first()
    if user is None:
        user = User.objects.create_user(owner_email)
    organization = Organization.objects.create(name=name, slug=free_slug(name), plan=plan)
    Membership.objects.create(organization=organization, user=user, role=Role.OWNER)
    return organization, user
