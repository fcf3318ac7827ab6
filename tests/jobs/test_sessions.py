"""Whose session opens which Job."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY

from accounts.models import OrganizationStatus, Role
from casola_site.core.errors import AuthenticationFailed
from jobs.services import JobNotFound
from jobs.sessions import visitor
from tests.factories.accounts import make_member, make_organization, make_user
from tests.factories.jobs import ghost_id, make_job

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def session_of(user) -> str:
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[-1]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return session.session_key


@pytest.fixture
def organization():
    return make_organization()


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.MEMBER, Role.VIEWER])
def test_a_member_sees_the_jobs_of_their_organization(organization, role):
    member, job = (
        make_member(organization=organization, role=role),
        make_job(organization=organization),
    )
    found = visitor(session_of(member), str(job.pk))
    assert found.identity.organization_pk == organization.pk
    assert found.identity.user_pk == member.pk


def test_strangers_and_disabled_members_see_none(organization):
    job = make_job(organization=organization)
    disabled = make_member(organization=organization, role=Role.DISABLED)
    elsewhere = make_member(organization=make_organization())
    for user in (disabled, elsewhere, make_user()):
        with pytest.raises(JobNotFound):
            visitor(session_of(user), str(job.pk))


@pytest.mark.parametrize("job_id", [ghost_id(), "odd", ""], ids=["ghost", "odd", "empty"])
def test_there_must_be_such_a_job(organization, job_id):
    with pytest.raises(JobNotFound):
        visitor(session_of(make_member(organization=organization)), job_id)


def test_without_a_session_nobody_is_there(organization):
    job = make_job(organization=organization)
    member = make_member(organization=organization)
    ended = session_of(member)
    import_module(settings.SESSION_ENGINE).SessionStore(ended).delete()
    inactive = session_of(member)
    type(member).objects.filter(pk=member.pk).update(is_active=False)
    for key in (ended, inactive, "", "junk"):
        with pytest.raises(AuthenticationFailed):
            visitor(key, str(job.pk))


def test_a_suspended_organization_shows_nothing(organization):
    job, member = make_job(organization=organization), make_member(organization=organization)
    type(organization).objects.update(status=OrganizationStatus.SUSPENDED)
    with pytest.raises(AuthenticationFailed):
        visitor(session_of(member), str(job.pk))
