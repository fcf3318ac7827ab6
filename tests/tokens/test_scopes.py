"""What a scope includes, how far a role reaches, and what a token may pass on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import Membership, Role
from accounts.roles import scopes_of_role
from casola_site.core.errors import InvalidRequest
from casola_site.core.scopes import PRESETS, Scope, closure
from tests.factories.accounts import make_member, make_organization, make_user
from tokens import keys
from tokens.models import ApiToken
from tokens.services import ScopeTooBroad, TokenNotFound, find_token, issue_token

CLOSURES = {
    "user:read": {"user:read"},
    "user:write": {"user:read", "user:write"},
    "admin:read": {"user:read", "admin:read"},
    "admin:write": {"user:read", "user:write", "admin:read", "admin:write"},
    "worker:read": {"worker:read"},
    "worker:write": {"worker:read", "worker:write"},
    "system:read": {"user:read", "admin:read", "system:read"},
    "system:write": {
        "user:read", "user:write", "admin:read", "admin:write", "system:read", "system:write"
    },
}  # fmt: skip
TENANT = ["user:read", "user:write", "admin:read", "admin:write"]


@pytest.mark.parametrize(("scope", "granted"), CLOSURES.items())
def test_the_closure_of_each_scope(scope, granted):
    assert closure([scope]) == granted


def test_a_closure_is_closed_and_unknown_words_grant_nothing():
    assert closure(["user:read", "worker:write"]) == {"user:read", "worker:read", "worker:write"}
    assert closure(["root", "", "USER:READ", "*"]) == frozenset()
    for scope in Scope:
        assert closure(closure([scope])) == closure([scope])


def test_the_presets():
    assert {name: closure(scopes) for name, scopes in PRESETS.items()} == {
        "userReadOnly": CLOSURES["user:read"],
        "userFull": CLOSURES["user:write"],
        "adminReadOnly": CLOSURES["admin:read"],
        "adminFull": CLOSURES["admin:write"],
    }


@pytest.mark.parametrize(
    ("role", "granted"),
    [
        ("owner", set(TENANT)),
        ("admin", set(TENANT)),
        ("member", {"user:read", "user:write"}),
        ("viewer", {"user:read"}),
        ("disabled", set()),
        ("nobody", set()),
    ],
)
def test_how_far_each_role_reaches(role, granted):
    assert scopes_of_role(role, system_organization=False) == granted
    everything = set(Scope) if role in ("owner", "admin") else granted
    assert scopes_of_role(role, system_organization=True) == everything


# -- issuing ----------------------------------------------------------------------------------


def issue(organization, scopes, **columns):
    return issue_token(
        organization=organization,
        scopes=scopes,
        **{"created_by": None, "name": "Test", "now": timezone.now(), **columns},
    )


@pytest.mark.django_db
@pytest.mark.sqlite
class TestIssueToken:
    def test_the_row_holds_no_secret(self):
        token, secret = issue(make_organization(), ["user:write"])

        row = ApiToken.objects.values().get()
        assert (row["hash"], row["prefix"], row["last_four"]) == (
            keys.digest(secret), secret[:11], secret[-4:]
        )  # fmt: skip
        assert not any(secret in str(value) for value in row.values())
        assert secret[11:] not in str(row)
        assert token.public_id.startswith("tok_")

    @pytest.mark.parametrize("role", Role.values)
    @pytest.mark.parametrize("scope", TENANT)
    def test_a_token_never_exceeds_its_creators_role(self, role, scope):
        organization = make_organization()
        creator = make_member(organization=organization, role=role)
        reach = scopes_of_role(role, system_organization=False)

        if closure([scope]) <= reach:
            assert issue(organization, [scope], created_by=creator)[0].scopes == [scope]
        else:
            with pytest.raises(ScopeTooBroad) as refused:
                issue(organization, [scope], created_by=creator)
            assert refused.value.code == "insufficient_scope"
            for missing in closure([scope]) - reach:
                assert missing in refused.value.message
            assert not ApiToken.objects.exists()

    @pytest.mark.parametrize("minter", TENANT)
    @pytest.mark.parametrize("scope", TENANT)
    def test_a_token_never_exceeds_the_token_that_mints_it(self, minter, scope):
        organization = make_organization()
        owner = make_member(organization=organization)
        granted_by = closure([minter])

        if closure([scope]) <= granted_by:
            issue(organization, [scope], created_by=owner, granted_by=granted_by)
        else:
            with pytest.raises(ScopeTooBroad):
                issue(organization, [scope], created_by=owner, granted_by=granted_by)

    def test_a_stranger_can_grant_nothing(self):
        with pytest.raises(ScopeTooBroad):
            issue(make_organization(), ["user:read"], created_by=make_user())

    def test_a_disabled_user_can_grant_nothing(self):
        organization = make_organization()
        owner = make_user(is_active=False)
        Membership.objects.create(organization=organization, user=owner, role=Role.OWNER)
        with pytest.raises(ScopeTooBroad):
            issue(organization, ["user:read"], created_by=owner)

    @pytest.mark.parametrize("scope", sorted(set(Scope) - set(TENANT)))
    def test_some_scopes_are_for_the_system_organization(self, scope):
        with pytest.raises(InvalidRequest) as refused:
            issue(make_organization(), [scope])
        assert refused.value.param == "scopes"

        assert issue(make_organization(is_system=True), [scope])[0].scopes == [scope]

    @pytest.mark.parametrize("scopes", [[], ["root"], ["user:read", ""], ["USER:READ"]])
    def test_unknown_scopes_are_refused(self, scopes):
        with pytest.raises(InvalidRequest) as refused:
            issue(make_organization(), scopes)
        assert (refused.value.code, refused.value.param) == ("invalid_value", "scopes")

    def test_doubles_are_kept_once_in_order(self):
        scopes = ["user:write", "user:read", "user:write"]
        assert issue(make_organization(), scopes)[0].scopes == ["user:write", "user:read"]

    def test_an_expiry_lies_ahead(self):
        now = timezone.now()
        with pytest.raises(InvalidRequest) as refused:
            issue(make_organization(), ["user:read"], now=now, expires_at=now)
        assert refused.value.param == "expires_at"

        later = now + timedelta(seconds=1)
        token, _ = issue(make_organization(), ["user:read"], now=now, expires_at=later)
        assert token.expires_at == later

    @pytest.mark.parametrize("token_id", ["", "tok_ghost", "x" * 5000, "a\x00b", "é", "../.."])
    def test_an_odd_id_finds_no_token(self, token_id):
        with pytest.raises(TokenNotFound):
            find_token(organization_pk=make_organization().pk, token_id=token_id)

    def test_a_strangers_token_is_not_found(self):
        token, _ = issue(make_organization(), ["user:read"])

        assert find_token(organization_pk=token.organization_id, token_id=token.public_id) == token
        with pytest.raises(TokenNotFound):
            find_token(organization_pk=make_organization().pk, token_id=token.public_id)
