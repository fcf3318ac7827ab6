"""Creating Organizations and their first member."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils.text import slugify

from accounts.models import Membership, Organization, Plan, Role, User
from casola_site.core import ids
from casola_site.core.errors import InvalidRequest


def free_slug(name: str) -> str:
    """A slug nobody has, from the name."""
    base = slugify(name)[:50] or "organization"
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


@transaction.atomic
def create_organization(
    *, name: str, plan_code: str, owner_email: str
) -> tuple[Organization, User]:
    """An Organization with its Owner (an existing User with that e-mail, else a new one).

    Raises InvalidRequest for an unknown plan, a name or an address that cannot be one.
    """
    name = check_text(name, limit=120, param="name")
    owner_email = check_text(owner_email, limit=254, param="owner_email")
    try:
        validate_email(owner_email)
    except ValidationError:
        raise InvalidRequest(
            f"{owner_email!r} is no e-mail address", code="invalid_value", param="owner_email"
        ) from None
    plan = Plan.objects.filter(code=plan_code).first()
    if plan is None:
        known = ", ".join(Plan.objects.values_list("code", flat=True))
        raise InvalidRequest(f"There is no plan {plan_code!r}; there are {known}", param="plan")
    user = User.objects.filter(email__iexact=owner_email).first()
    if user is None:
        user = User.objects.create_user(owner_email)
    organization = _create(name, plan)
    Membership.objects.create(organization=organization, user=user, role=Role.OWNER)
    return organization, user


def _create(name: str, plan: Plan) -> Organization:
    """The row; a namesake that came in the same moment took the plain slug."""
    try:
        with transaction.atomic():
            return Organization.objects.create(name=name, slug=free_slug(name), plan=plan)
    except IntegrityError:
        return Organization.objects.create(name=name, slug=free_slug(name), plan=plan)
