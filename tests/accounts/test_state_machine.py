"""Random histories of an Organization, against a small model of what each role may do."""

from __future__ import annotations

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from accounts.actors import user_actor
from accounts.models import Role
from accounts.services import (
    InviteTerms,
    accept_invite,
    accept_transfer,
    change_role,
    create_invite,
    end_transfer,
    offer_transfer,
    remove_member,
)
from casola_site.core.errors import ApiError, AuthenticationFailed
from tests.factories.accounts import make_member, make_organization, make_user
from tests.factories.tokens import make_token
from tokens import identity, keys

NOW = timezone.now()
PEOPLE = 4
REACH = {
    "owner": {"user:read", "user:write", "admin:read", "admin:write"},
    "admin": {"user:read", "user:write", "admin:read", "admin:write"},
    "member": {"user:read", "user:write"},
    "viewer": {"user:read"},
}
who = st.integers(0, PEOPLE - 1)


class Histories(RuleBasedStateMachine):
    """`roles` says what must be true; every refused call must leave it as it was."""

    @initialize()
    def begin(self) -> None:
        self.savepoint = transaction.atomic()
        self.savepoint.__enter__()
        self.organization = make_organization()
        self.people = [make_member(organization=self.organization)]
        self.people += [make_user() for _ in range(PEOPLE - 1)]
        self.roles: dict[int, str] = {0: "owner"}
        self.offer: tuple[int, int] | None = None
        self.secrets = [
            make_token(organization=self.organization, created_by=person, scopes=["admin:write"])[1]
            for person in self.people
        ]
        self.dead: set[int] = set()  # tokens revoked by a removal

    def teardown(self) -> None:
        if hasattr(self, "savepoint"):
            transaction.set_rollback(True)
            self.savepoint.__exit__(None, None, None)

    def attempt(self, service, allowed: bool, **arguments) -> bool:
        try:
            with transaction.atomic():
                service(now=NOW, **arguments)
        except ApiError:
            assert not allowed, (service.__name__, self.roles, arguments)
            return False
        assert allowed, (service.__name__, self.roles, arguments)
        return True

    def by(self, number: int):
        return user_actor(self.people[number])

    def is_last_owner(self, number: int) -> bool:
        return [one for one, role in self.roles.items() if role == "owner"] == [number]

    def may_touch(self, actor: int, *roles: str) -> bool:
        mine = self.roles.get(actor)
        return mine == "owner" or (mine == "admin" and "owner" not in roles)

    def drop_offer(self, number: int) -> None:
        giver, taker = self.offer or (None, None)
        gone = self.roles.get(number)
        if (number == giver and gone != "owner") or (
            number == taker and gone in (None, "disabled", "owner")
        ):
            self.offer = None

    @rule(actor=who, whom=who, role=st.sampled_from(Role.values))
    def change(self, actor: int, whom: int, role: str) -> None:
        old = self.roles.get(whom)
        allowed = (
            old is not None
            and self.may_touch(actor, old, role)
            and not (old == "owner" != role and self.is_last_owner(whom))
        )
        if self.attempt(
            change_role,
            allowed,
            organization=self.organization,
            member_id=self.people[whom].public_id,
            role=role,
            by=self.by(actor),
        ):
            self.roles[whom] = role
            if old != role:
                self.drop_offer(whom)

    @rule(actor=who, whom=who)
    def remove(self, actor: int, whom: int) -> None:
        old = self.roles.get(whom)
        leaves = actor == whom and old not in (None, "disabled")
        allowed = (
            old is not None
            and (leaves or self.may_touch(actor, old))
            and not self.is_last_owner(whom)
        )
        if self.attempt(
            remove_member,
            allowed,
            organization=self.organization,
            member_id=self.people[whom].public_id,
            by=self.by(actor),
        ):
            del self.roles[whom]
            self.dead.add(whom)
            self.drop_offer(whom)

    @rule(actor=who, guest=who, role=st.sampled_from(["admin", "member", "viewer"]))
    def invite_and_accept(self, actor: int, guest: int, role: str) -> None:
        made: list[str] = []

        def create(**arguments) -> None:
            made.append(create_invite(**arguments)[1])

        if not self.attempt(
            create,
            self.may_touch(actor, role),
            organization=self.organization,
            terms=InviteTerms(role=role),
            base_url="",
            by=self.by(actor),
        ):
            return
        there = self.roles.get(guest)
        allowed = there != "disabled"
        if self.attempt(accept_invite, allowed, token=made[0], user=self.people[guest]):
            self.roles.setdefault(guest, role)

    @rule(giver=who, taker=who)
    def offer_ownership(self, giver: int, taker: int) -> None:
        allowed = (
            self.roles.get(giver) == "owner"
            and self.roles.get(taker) in ("admin", "member", "viewer")
            and self.offer is None
        )
        if self.attempt(
            offer_transfer,
            allowed,
            organization=self.organization,
            member_id=self.people[taker].public_id,
            by=self.by(giver),
        ):
            self.offer = (giver, taker)

    @rule(actor=who)
    def accept_ownership(self, actor: int) -> None:
        allowed = self.offer is not None and self.offer[1] == actor
        if self.attempt(
            accept_transfer, allowed, organization=self.organization, by=self.by(actor)
        ):
            giver, taker = self.offer
            self.roles.update({giver: "admin", taker: "owner"})
            self.offer = None

    @rule(actor=who)
    def end_ownership(self, actor: int) -> None:
        allowed = self.offer is not None and (
            actor == self.offer[1] or self.roles.get(actor) == "owner"
        )
        if self.attempt(end_transfer, allowed, organization=self.organization, by=self.by(actor)):
            self.offer = None

    @invariant()
    def rows_say_the_same(self) -> None:
        if not hasattr(self, "roles"):
            return
        found = dict(self.organization.memberships.values_list("user_id", "role"))
        assert found == {self.people[one].pk: role for one, role in self.roles.items()}
        assert "owner" in self.roles.values()

    @invariant()
    def tokens_are_worth_what_the_role_is_worth(self) -> None:
        for number, secret in enumerate(getattr(self, "secrets", ())):
            reach = set() if number in self.dead else REACH.get(self.roles.get(number, ""), set())
            try:
                found = set(identity.load(keys.digest(secret)).scopes)
            except AuthenticationFailed:
                found = set()
            assert found == reach


@pytest.mark.django_db
@pytest.mark.sqlite
def test_any_history():
    options = settings(
        max_examples=25,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Histories, settings=options)
