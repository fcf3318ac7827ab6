"""The frame of pages: who may see which, sessions and CSRF, headers, errors, the switch."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from accounts.models import Membership, OrganizationStatus, Role
from accounts.services import switch_organization
from tests.factories.accounts import make_invite, make_member, make_organization, make_user
from tests.factories.tokens import make_token
from tests.pages import Page, visitor

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]

# method, path, the least role; {…} are ids of the visitor's own organization
PAGES = [
    ("GET", "/start", Role.VIEWER),
    ("GET", "/welcome", Role.MEMBER),
    ("GET", "/welcome/status", Role.MEMBER),
    ("POST", "/welcome/key", Role.MEMBER),
    ("GET", "/usage", Role.VIEWER),
    ("GET", "/usage.csv", Role.VIEWER),
    ("GET", "/settings/tokens", Role.VIEWER),
    ("GET", "/settings/tokens/new", Role.VIEWER),
    ("POST", "/settings/tokens/new", Role.VIEWER),
    ("POST", "/settings/tokens/env", Role.VIEWER),
    ("GET", "/settings/tokens/{token}", Role.ADMIN),
    ("POST", "/settings/tokens/{token}", Role.ADMIN),
    ("POST", "/settings/tokens/{token}/rotate", Role.ADMIN),
    ("GET", "/settings/tokens/{token}/revoke", Role.ADMIN),
    ("POST", "/settings/tokens/{token}/revoke", Role.ADMIN),
    ("GET", "/settings/limits", Role.VIEWER),
    ("POST", "/settings/limits", Role.ADMIN),
    ("GET", "/settings/organization", Role.VIEWER),
    ("POST", "/settings/organization", Role.ADMIN),
    ("GET", "/settings/organization/leave", Role.VIEWER),
    ("POST", "/settings/organization/leave", Role.VIEWER),
    ("GET", "/settings/audit", Role.ADMIN),
    ("GET", "/settings/members", Role.ADMIN),
    ("POST", "/settings/members/{member}/role", Role.ADMIN),
    ("GET", "/settings/members/{member}/remove", Role.ADMIN),
    ("POST", "/settings/members/{member}/remove", Role.ADMIN),
    ("GET", "/settings/members/{member}/ownership", Role.OWNER),
    ("POST", "/settings/members/{member}/ownership", Role.OWNER),
    ("POST", "/settings/members/invites", Role.ADMIN),
    ("POST", "/settings/members/invites/{invite}/resend", Role.ADMIN),
    ("POST", "/settings/members/invites/{invite}/revoke", Role.ADMIN),
]
ROLES = (Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER)
READ = [path for method, path, _ in PAGES if method == "GET"]
FORMS = [path for method, path, _ in PAGES if method == "POST"]
NAMING = [(method, path) for method, path, _ in PAGES if "{" in path]


@pytest.fixture
def organization():
    return make_organization()


def ids_in(organization) -> dict[str, str]:
    return {
        "token": make_token(organization=organization)[0].public_id,
        "member": make_member(organization=organization, role=Role.MEMBER).public_id,
        "invite": make_invite(organization=organization)[0].public_id,
    }


@pytest.mark.parametrize(("method", "path", "least"), PAGES)
def test_each_role_reaches_what_it_may(organization, method, path, least):
    ids = ids_in(organization)

    for role in ROLES:
        status = visitor(role, organization).generic(method, path.format(**ids)).status_code
        # Who sees no tokens but their own does not learn that the other exists.
        refused = 404 if "{token}" in path else 403
        if ROLES.index(role) < ROLES.index(least):
            assert status == refused, role
        else:
            assert status in (200, 302, 400), role


@pytest.mark.parametrize("role", [Role.DISABLED, None])
def test_who_has_no_place_is_sent_to_make_one(organization, role):
    somebody, ids = visitor(role, organization), ids_in(organization)

    for method, path, _ in PAGES:
        response = somebody.generic(method, path.format(**ids))
        assert (response.status_code, response["Location"]) == (302, "/organizations/new")


def test_who_is_not_signed_in_is_sent_to_log_in(organization):
    ids = ids_in(organization)

    for method, path, _ in PAGES:
        response = Client().generic(method, path.format(**ids))
        back = path.format(**ids) if method == "GET" else "/start"
        assert (response.status_code, response["Location"]) == (302, f"/login?next={back}")


@pytest.mark.parametrize(("method", "path"), NAMING)
def test_ids_of_another_organization_are_not_found(method, path):
    mine, foreign = visitor(Role.OWNER), ids_in(make_organization())

    assert mine.generic(method, path.format(**foreign)).status_code == (
        # What the form says is looked at first, and it is empty.
        400 if path.endswith("/role") else 404
    )


@pytest.mark.parametrize("path", FORMS)
def test_a_form_without_its_token_is_refused(organization, path):
    owner = visitor(Role.OWNER, organization, enforce_csrf_checks=True)

    response = owner.post(path.format(**ids_in(organization)))

    assert response.status_code == 403
    assert "The form has expired" in response.content.decode()


@pytest.mark.parametrize(("method", "path"), [row[:2] for row in PAGES])
def test_a_suspended_organization_shows_and_changes_nothing(organization, method, path):
    organization.status = OrganizationStatus.SUSPENDED
    organization.save()
    owner = visitor(Role.OWNER, organization)
    ids = ids_in(organization)

    response = owner.generic(method, path.format(**ids))

    if method == "GET":
        assert response.status_code in (200, 302)
        if response.status_code == 200 and response["Content-Type"].startswith("text/html"):
            assert f"{organization.name} is suspended" in response.content.decode()
    elif path in ("/settings/organization/leave", "/settings/tokens/env"):
        assert response.status_code == 400
    else:
        assert response.status_code == 403
        assert "nothing can be changed in it" in response.content.decode()


def dashboard_views(patterns=None, prefix=""):
    """Every route that is no API, admin or document."""
    for each in get_resolver().url_patterns if patterns is None else patterns:
        path = prefix + str(each.pattern)
        if path.startswith(("api/", "openai/", "fal/", "admin", "livez", "readyz", "docs")):
            continue
        if path.startswith(("reference", "openapi", "metrics", "outputs/")):
            continue
        if isinstance(each, URLResolver):
            if not str(getattr(each, "urlconf_name", "")).startswith("<module 'accounts.sign_in"):
                yield from dashboard_views(each.url_patterns, path)
        elif isinstance(each, URLPattern):
            yield path, each.callback


def test_every_page_says_whom_it_is_for():
    said = {path: getattr(view, "page_for", None) for path, view in dashboard_views()}

    assert [path for path, whom in said.items() if whom is None] == []
    anybody = sorted(path for path, whom in said.items() if whom == "anybody")
    assert anybody == ["", "join/<str:token>", "theme", "tokens"]
    users = sorted(path for path, whom in said.items() if whom == "user")
    assert users == ["organizations/new", "organizations/switch"]


@pytest.mark.parametrize("path", [*READ, "/organizations/new", "/", "/nowhere"])
def test_a_page_is_safe_to_show(organization, path):
    response = visitor(Role.OWNER, organization).get(path.format(**ids_in(organization)))

    if response.status_code == 302 or not response["Content-Type"].startswith("text/html"):
        return
    page = Page(response.content.decode())
    policy = response["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert page.inline == []
    assert [each for each in page.addresses if "//" in each] == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.described) <= set(page.ids)
    assert "no-store" in response["Cache-Control"]
    assert '<html lang="en"' in page.text
    assert 'href="#main"' in page.text


def test_a_token_opens_no_page(organization):
    ids = ids_in(organization)
    _, secret = make_token(organization=organization, scopes=["admin:write"])

    for path in READ:
        response = Client().get(path.format(**ids), headers={"authorization": f"Bearer {secret}"})
        assert response.status_code == 302
        assert response["Location"].startswith("/login")


def test_a_session_opens_no_api(organization):
    owner = visitor(Role.OWNER, organization)

    for path in ("/api/users/me", f"/api/organizations/{organization.public_id}/members"):
        assert owner.get(path).status_code == 401


def test_the_menu_shows_what_the_role_reaches(organization):
    def menu(role):
        links = set(Page(visitor(role, organization).get("/usage").content.decode()).addresses)
        return links & {"/welcome", "/settings/members", "/settings/tokens"}

    assert menu(Role.VIEWER) == {"/settings/tokens"}
    assert menu(Role.MEMBER) == {"/settings/tokens", "/welcome"}
    assert menu(Role.ADMIN) == {"/settings/tokens", "/welcome", "/settings/members"}


@pytest.mark.parametrize(
    ("path", "current"),
    [
        ("/usage", "/usage"),
        ("/settings/tokens/new", "/settings/tokens"),
        ("/settings/members", "/settings/members"),
        ("/settings/organization/leave", "/settings/organization"),
        ("/settings/audit", "/settings/organization"),
    ],
)
def test_the_menu_marks_the_page(organization, path, current):
    shell = visitor(Role.OWNER, organization).get(path).context["shell"]

    assert [item.path for item in shell.nav if item.is_current] == [current]
    assert shell.section == current


# -- switching --------------------------------------------------------------------------------


def test_the_switch_leads_to_the_same_page_of_the_other(organization):
    other = make_organization(name="The Other")
    owner = visitor(Role.OWNER, organization)
    Membership.objects.create(organization=other, user=owner.user, role=Role.VIEWER)

    response = owner.post(
        "/organizations/switch", {"organization": other.public_id, "next": "/usage"}
    )

    assert (response.status_code, response["Location"]) == (302, "/usage")
    assert owner.get("/usage").context["shell"].organization == other


@pytest.mark.parametrize("wanted", ["/settings/members", "https://evil.example/", "//evil", ""])
def test_the_switch_leads_nowhere_else(organization, wanted):
    other = make_organization()
    owner = visitor(Role.OWNER, organization)
    Membership.objects.create(organization=other, user=owner.user, role=Role.VIEWER)

    response = owner.post(
        "/organizations/switch", {"organization": other.public_id, "next": wanted}
    )

    assert (response.status_code, response["Location"]) == (302, "/start")


@pytest.mark.parametrize("kind", ["foreign", "unknown", "disabled", "empty"])
def test_the_switch_opens_no_strange_organization(organization, kind):
    owner = visitor(Role.OWNER, organization)
    other = make_organization()
    if kind == "disabled":
        Membership.objects.create(organization=other, user=owner.user, role=Role.DISABLED)
    chosen = {"unknown": "org_nope", "empty": ""}.get(kind, other.public_id)

    response = owner.post("/organizations/switch", {"organization": chosen})

    assert response.status_code == 404
    owner.user.refresh_from_db()
    assert owner.user.current_organization is None


def test_pages_are_about_the_organization_switched_to(organization):
    owner = visitor(Role.OWNER, organization)
    other = make_organization(name="Elsewhere")
    Membership.objects.create(organization=other, user=owner.user, role=Role.ADMIN)
    switch_organization(user=owner.user, organization=other)
    make_token(organization=organization, name="Here")
    make_token(organization=other, name="There")

    page = owner.get("/settings/tokens").content.decode()

    assert ("There" in page, "Here" in page) == (True, False)


# -- colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["light", "dark"])
def test_the_colours_are_remembered(chosen):
    client = Client()

    response = client.post("/theme", {"theme": chosen, "next": "/join/x"})

    assert (response.status_code, response["Location"]) == (302, "/join/x")
    assert f'data-theme="{chosen}"' in client.get("/").content.decode()
    client.post("/theme", {"theme": "system"})
    assert "data-theme=" not in client.get("/").content.decode()


@pytest.mark.parametrize("wanted", ["https://evil.example", "//evil.example", "usage", ""])
def test_the_colours_lead_nowhere_else(wanted):
    assert Client().post("/theme", {"theme": "dark", "next": wanted})["Location"] == "/"


def test_a_strange_theme_changes_nothing():
    client = Client()
    client.cookies["theme"] = '"><script>'

    assert "data-theme=" not in client.get("/").content.decode()


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nowhere", 404, "There is nothing here"),
        ("/usage?range=never", 400, "This could not be understood"),
        ("/settings/members", 403, "You may not do this"),
        ("/settings/tokens?after=nothing", 400, "This could not be understood"),
    ],
)
def test_an_error_page_says_what_to_do(organization, path, status, words):
    response = visitor(Role.MEMBER, organization).get(path)

    page = response.content.decode()
    assert response.status_code == status
    assert words in page
    assert response["x-request-id"] in page
    assert "/start" in page


def test_a_wrong_method_is_refused_with_those_allowed(organization):
    response = visitor(Role.OWNER, organization).get("/organizations/switch")

    assert (response.status_code, response["Allow"]) == (405, "POST")
    assert response["x-request-id"] in response.content.decode()


def test_who_is_not_verified_reads_and_is_told(organization):
    member = visitor(Role.OWNER, organization, verified=False)

    assert "Your e-mail address is not confirmed" in member.get("/usage").content.decode()
    for path in ("/welcome", "/settings/tokens/new"):
        response = member.get(path)
        assert (response.status_code, response["Location"]) == (302, "/verify")
    assert member.get("/start")["Location"] == "/usage"


def test_somebody_without_organizations_can_make_one():
    client = Client()
    client.force_login(make_user())

    assert "You belong to no organization" in client.get("/organizations/new").content.decode()
    assert client.post("/organizations/new", {"name": "Mine"})["Location"] == "/start"
    assert "Mine" in client.get("/usage").content.decode()
