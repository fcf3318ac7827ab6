"""The key that waits for a new member: one, whatever happens at once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.actors import user_actor
from accounts.models import Membership, Role
from tests.factories.accounts import make_member, make_organization
from tests.threads import at_once
from tokens import keys
from tokens.models import ApiToken, TokenStatus
from tokens.onboarding import make_first_key, replace_first_key
from tokens.services import ScopeTooBroad, revoke_token

NOW = timezone.now()
db = pytest.mark.django_db


def make_membership(role=Role.MEMBER):
    user = make_member(organization=make_organization(), role=role)
    return Membership.objects.select_related("organization__plan", "user").get(user=user)


def first_key(membership, now=NOW):
    return make_first_key(membership=membership, by=user_actor(membership.user), now=now)


def another_key(membership, now=NOW):
    return replace_first_key(membership=membership, by=user_actor(membership.user), now=now)


@db
@pytest.mark.sqlite
def test_it_is_made_once():
    membership = make_membership()

    token, secret = first_key(membership)

    assert token.hash == keys.digest(secret)
    assert (token.scopes, token.expires_at) == (
        ["user:read", "user:write"],
        NOW + timedelta(days=180),
    )
    assert first_key(membership) is None
    revoke_token(token=token, now=NOW)
    assert first_key(membership) is None
    assert ApiToken.objects.count() == 1


@db
@pytest.mark.sqlite
def test_each_member_has_one_in_each_organization():
    one, other = make_membership(), make_membership()
    Membership.objects.create(organization=other.organization, user=one.user, role=Role.MEMBER)
    elsewhere = Membership.objects.select_related("organization__plan", "user").get(
        organization=other.organization, user=one.user
    )

    made = [first_key(each) for each in (one, other, elsewhere)]

    assert len({token.pk for token, _ in made}) == 3


@db
@pytest.mark.sqlite
def test_who_only_looks_gets_none():
    membership = make_membership(Role.VIEWER)

    with pytest.raises(ScopeTooBroad):
        first_key(membership)
    assert ApiToken.objects.count() == 0


@db
@pytest.mark.sqlite
def test_another_key_ends_the_one_before():
    membership = make_membership()
    token, old = first_key(membership)

    again, new = another_key(membership)

    assert (again.pk, again.hash) == (token.pk, keys.digest(new))
    assert (again.previous_hash, new == old) == (None, False)


@db
@pytest.mark.sqlite
@pytest.mark.parametrize("end", ["revoked", "expired", "never made"])
def test_another_key_is_a_new_token_when_there_is_none(end):
    membership = make_membership()
    old = None
    if end != "never made":
        old, _ = first_key(membership, NOW - timedelta(days=200 if end == "expired" else 1))
    if end == "revoked":
        revoke_token(token=old, now=NOW)

    token, _ = another_key(membership)

    assert token.status == TokenStatus.ACTIVE
    assert token != old
    assert list(ApiToken.objects.filter(is_onboarding=True)) == [token]


@pytest.mark.django_db(transaction=True)
def test_of_many_visits_at_once_one_shows_a_key():
    membership = make_membership()

    made = at_once([lambda: first_key(membership)] * 8)

    assert len([each for each in made if each is not None]) == 1
    assert ApiToken.objects.count() == 1
