"""Through a real web process: its guard, its threads, its CSRF check; and a provider elsewhere."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from tests.accounts.doors import PASSWORD
from tests.accounts.provider import provider
from tests.live import Live, wait_until
from tests.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.sqlite]
PERSON = {
    "sub": "248289761001",
    "name": "Grace Hopper",
    "email": "grace@example.com",
    "email_verified": True,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A web process alone, with the provider switched on."""
    with provider(PERSON) as address:
        host = address.removeprefix("http://")
        live = Live.from_environment(
            tmp_path_factory.mktemp("site"),
            environment={"SOCIAL_OPENID": f"http://client:s3cret@{host}"},
        )
        live.port = free_port()
        live.manage("migrate", "-v0")
        live.start_process("web", "web")
        try:
            wait_until(lambda: live.get("/readyz", key="none").status_code == 200)
            yield live
        finally:
            live.stop()


@pytest.fixture
def person(site):
    """A browser's cookies."""
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


def send(person: httpx.Client, page: str, to: str = "", **fields: str) -> httpx.Response:
    """Open the page, fill in its form and send it, as a browser does."""
    form = person.get(page, follow_redirects=True)
    assert form.status_code == 200, form.text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)[1]
    headers = {"Origin": str(person.base_url).rstrip("/"), "Referer": str(form.url)}
    data = {**fields, "csrfmiddlewaretoken": token}
    return person.post(to or page, data=data, headers=headers)


def test_signing_up_at_the_machine_itself(site, person):
    answer = send(person, "/signup?next=/join/x", email="ada@example.com", password1=PASSWORD)
    assert (answer.status_code, answer.headers["location"]) == (302, "/verify")
    page = person.get("/verify").text
    code = re.search(r'<strong class="code">(\S+)</strong>', page)[1]
    log = (site.var_dir / "web.log").read_text()
    assert code in log  # the mail, in the terminal

    answer = send(person, "/verify", code=code)

    assert answer.status_code == 302
    assert person.get("/settings/security").status_code == 200
    assert send(person, "/settings/security/sessions", end="x").status_code == 302
    assert send(person, "/logout").headers["location"] == "/"
    assert person.get("/settings/security").status_code == 302
    answer = send(person, "/login", login="ada@example.com", password=PASSWORD)
    assert answer.headers["location"] == "/start"


def test_without_the_forms_token_nothing_happens(person):
    answer = person.post("/signup", data={"email": "eve@example.com", "password1": PASSWORD})
    assert answer.status_code == 403
    assert "The form has expired" in answer.text


def test_a_token_of_the_api_opens_no_page(site, person):
    headers = {"Authorization": "Bearer csl_sk_x"}
    answer = person.get("/settings/security", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (
        302,
        "/login?next=/settings/security",
    )


def test_the_admins_door_is_locked_by_axes(site, person):
    site.python(
        "from accounts.models import User; User.objects.create_superuser('root@example.com','x')"
    )
    answers = [
        send(person, "/admin/login/", username="root@example.com", password="wrong")
        for _ in range(5)
    ]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert "Too many wrong passwords" in answers[-1].text


def test_signing_up_with_an_account_elsewhere(site, person):
    page = person.get("/login?next=/join/x")
    policy = page.headers["content-security-policy"]
    assert re.search(r"form-action 'self' http://127\.0\.0\.1:\d+", policy)
    link = re.search(r'href="(/social/[^"]+)"', page.text)[1].replace("&amp;", "&")
    assert "next=%2Fjoin%2Fx" in link

    answer = send(person, link)
    answer = person.get(answer.headers["location"])  # over there
    answer = person.get(answer.headers["location"])  # and back

    assert (answer.status_code, answer.headers["location"]) == (302, "/join/x")
    assert person.get("/settings/security/connections").status_code == 200
    code = (
        "import json; from accounts.models import User, AuditEvent;"
        "user = User.objects.get(email='grace@example.com');"
        "print(json.dumps([user.name, user.email_verified_at is not None,"
        " user.current_organization.is_personal, list(AuditEvent.objects.filter("
        "target=user.public_id).order_by('pk').values_list('action', flat=True))]))"
    )
    assert json.loads(site.python(code).splitlines()[-1]) == [
        "Grace Hopper",
        True,
        True,
        ["user.signed_up", "user.email_verified", "user.signed_in"],
    ]
