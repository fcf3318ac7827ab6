"""Pages over HTTP: their headers, that they load nothing from elsewhere, and the admin's doors."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx
import pytest

from tests.live_api.envelope import bearer

PAGES = ["/", "/docs", "/reference", "/admin/login/"]


class Links(HTMLParser):
    """What a page loads, and its inline scripts and handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.forms: list[str] = []
        self.open_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            if found.get(name):
                self.loaded.append(found[name])
        if tag == "form" and found.get("action"):
            self.forms.append(found["action"])
        self.inline += [name for name in found if name.startswith("on")]
        self.open_script = tag == "script" and "src" not in found

    def handle_data(self, data):
        if self.open_script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag):
        self.open_script = False


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_safe_to_show(bare, path):
    response = bare.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in response.headers["content-security-policy"].split(";")
    )
    scripts = policy.get("script-src", policy["default-src"])
    assert "'unsafe-inline'" not in scripts
    assert "'unsafe-eval'" not in scripts
    assert policy["frame-ancestors"] == "'none'"
    assert policy["object-src"] == "'none'"
    assert "http" not in response.headers["content-security-policy"]
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"
    assert response.headers["x-request-id"]
    page = Links(response.text)
    assert not page.inline, page.inline
    assert all(re.match(r"/(?!/)|#|\?|data:image/|$", link) for link in page.loaded), page.loaded


@pytest.mark.parametrize("path", PAGES)
def test_what_a_page_loads_is_there(bare, path):
    page = Links(bare.get(path).text)
    for link in page.loaded:
        if link in page.forms:
            continue  # sent to, not loaded
        if link.startswith("/") and not link.startswith("/admin"):
            response = bare.get(link)
            assert response.status_code == 200, link
            assert "://fonts." not in response.text[:200_000]


def test_docs_show_our_schema(bare):
    page = bare.get("/docs").text
    script = next(link for link in Links(page).loaded if "script" in link)
    assert "/openapi.json" in bare.get(script).text


def test_an_unknown_page_is_a_page(bare):
    response = bare.get("/nowhere")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["x-request-id"] in response.text


def test_a_key_opens_no_page(site):
    response = httpx.get(site.url + "/admin/jobs/job/", headers=bearer(site.alpha["admin_write"]))
    assert response.status_code == 302
    assert response.headers["location"].startswith("/admin/login/")


def test_health(bare):
    assert bare.get("/livez").json() == {"status": "ok"}
    ready = bare.get("/readyz").json()
    assert (ready["status"], ready["checks"]) == ("ok", {"database": "ok", "redis": "ok"})


@pytest.mark.sqlite
def test_a_session_opens_the_admin_and_no_api(site):
    """Signing in needs the form's token; the cookies are not for scripts nor other sites."""
    with httpx.Client(base_url=site.url) as browser:
        form = {"username": "root@example.com", "password": "a long password", "next": "/admin/"}
        assert browser.post("/admin/login/", data=form).status_code == 403
        page = browser.get("/admin/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)
        wrong = browser.post(
            "/admin/login/", data={**form, "password": "x", "csrfmiddlewaretoken": token}
        )
        assert wrong.status_code == 200
        answer = browser.post("/admin/login/", data={**form, "csrfmiddlewaretoken": token})
        assert (answer.status_code, answer.headers["location"]) == (302, "/verify")
        assert browser.get("/admin/").status_code == 302
        page = browser.get("/verify").text  # nobody has verified root's address yet
        code = re.search(r'<strong class="code">(\S+)</strong>', page).group(1)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)
        answer = browser.post("/verify", data={"code": code, "csrfmiddlewaretoken": token})
        assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
        cookie = next(
            value
            for value in answer.headers.get_list("set-cookie")
            if value.startswith("sessionid")
        )
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert browser.get("/admin/").status_code == 200
        job = site.live.chat("for the admin", key=site.alpha["user_write"]).headers[
            "x-casola-job-id"
        ]
        shown = browser.get(f"/admin/jobs/job/{job}/change/")
        assert shown.status_code == 200
        assert "for the admin" not in shown.text
        secret = site.alpha["user_write"]
        found = browser.get("/admin/tokens/apitoken/", params={"q": secret})
        assert site.alpha["user_write_id"] in found.text
        assert site.beta["user_write_id"] not in found.text
        assert browser.get("/api/users/me").status_code == 401
        assert browser.post("/api/jobs", json={}).status_code == 401
