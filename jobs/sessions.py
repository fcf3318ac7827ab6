"""A signed-in member who looks at a Job: what their session opens, without a token."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest

from accounts.models import OrganizationStatus
from accounts.selectors import memberships_of
from casola_site.core import ids
from casola_site.core.errors import AuthenticationFailed, InsufficientScope
from casola_site.core.scopes import Scope
from jobs.models import Job
from jobs.services import JobNotFound
from tokens.identity import Identity, member_identity


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whose session it is, as far as this Job goes."""

    session_key: str
    job_id: str
    identity: Identity


def visitor(session_key: str, job_id: str) -> Visitor:
    """The member of the Job's Organization whose session this is.

    Raises AuthenticationFailed where nobody is signed in or the Organization is suspended,
    JobNotFound for a stranger's Job, InsufficientScope for a role that may not look.
    """
    request = HttpRequest()
    engine = import_module(settings.SESSION_ENGINE)
    request.session = engine.SessionStore(session_key)
    user = get_user(request)
    if not user.is_authenticated:
        raise AuthenticationFailed
    parsed = ids.parse_job_id(job_id)
    job = Job.objects.filter(pk=parsed).values_list("organization_id", flat=True).first()
    membership = memberships_of(user).filter(organization_id=job).first()  # type: ignore[arg-type]
    if job is None or membership is None:
        raise JobNotFound
    if membership.organization.status != OrganizationStatus.ACTIVE:
        raise AuthenticationFailed
    identity = member_identity(membership)
    if Scope.USER_READ not in identity.scopes:
        raise InsufficientScope(Scope.USER_READ)
    return Visitor(session_key, job_id, identity)
