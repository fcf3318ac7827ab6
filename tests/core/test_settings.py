"""A wrong variable stops the start with one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from casola_site.settings import environment as env
from tests.threads import at_once

ROOT = Path(__file__).resolve().parents[2]


def check(tmp_path, **variables):
    return subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "http", "PORT='http' is not a whole number."),
        ("DATABASE_URL", "mysql://x", "DATABASE_URL='mysql://x' must begin with "),
        ("DATABASE_URL", "postgres://a:b@h:port/x", "DATABASE_URL='postgres://***@h:port/x' is "),
        ("TRUSTED_PROXIES", "10.0.0.0/99", "TRUSTED_PROXIES: '10.0.0.0/99' is no IP network."),
        ("EMAIL_URL", "http://h", "EMAIL_URL='http://h' must begin with smtp://"),
        ("EMAIL_URL", "smtp://u:p@", "EMAIL_URL='smtp://***@' names no host."),
        ("FETCH_ALLOW", "10.0.0.5", "FETCH_ALLOW: '10.0.0.5' is no origin."),
        ("SIGNUP_RATE", "lots", "SIGNUP_RATE='lots' is no rate: a number per s, m, h or d, "),
        ("SIGNUP_RATE", "0/h", "SIGNUP_RATE='0/h' is no rate: "),
        ("SOCIAL_GITHUB", "only-an-id", "SOCIAL_GITHUB must be client_id:secret."),
        ("SOCIAL_GOOGLE", "id:", "SOCIAL_GOOGLE must be client_id:secret."),
        ("SOCIAL_OPENID", "https://id.example.com", "SOCIAL_OPENID='https://id.example.com' must "),
        (
            "SOCIAL_OPENID",
            "http://a:b@id.example.com",
            "SOCIAL_OPENID='http://***@id.example.com' ",
        ),
        ("LOG_LEVEL", "loud", "LOG_LEVEL='LOUD' is none of DEBUG, INFO, "),
    ],
)
def test_the_start_ends_with_one_sentence(tmp_path, name, value, sentence):
    done = check(tmp_path, **{name: value})

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"casola cannot start: {sentence}")
    assert done.stderr.count("\n") == 1


def test_providers_are_switched_on_by_variables(tmp_path):
    code = (
        "from django.conf import settings as s; from django.urls import reverse;"
        "print(s.SOCIAL_ORIGINS, reverse('github_login'), reverse('google_callback'),"
        "reverse('openid_connect_login', args=['openid']));"
        "print(s.SOCIALACCOUNT_PROVIDERS['openid_connect']['APPS'])"
    )
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", code],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "VAR_DIR": str(tmp_path),
            "SOCIAL_GITHUB": "an-id:a:secret",
            "SOCIAL_GOOGLE": "an-id:secret",
            "SOCIAL_OPENID": "https://an%40id:a%2Fsecret@id.example.com:8443/realms/main/",
            "SOCIAL_OPENID_NAME": "Our own",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    origins, app = done.stdout.splitlines()
    assert origins == (
        "['https://github.com', 'https://accounts.google.com', 'https://id.example.com:8443']"
        " /social/github/login/ /social/google/login/callback/ /social/oidc/openid/login/"
    )
    assert app == str(
        [
            {
                "provider_id": "openid",
                "name": "Our own",
                "client_id": "an@id",
                "secret": "a/secret",
                "settings": {"server_url": "https://id.example.com:8443/realms/main"},
            }
        ]
    )


def test_without_any_variable_all_is_well(tmp_path):
    done = check(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "System check identified no issues (1 silenced).\n"


READERS = {
    "flag": lambda: env.flag("X", default=False),
    "integer": lambda: env.integer("X", 5, low=1, high=9),
    "items": lambda: env.items("X", ["a"]),
    "url": lambda: env.url("X", "http://a", schemes=("http", "https")),
    "choice": lambda: env.choice("X", "A", of=("A", "B")),
}


@pytest.mark.parametrize(
    ("reader", "raw", "value"),
    [
        ("flag", None, False),
        ("flag", " Yes ", True),
        ("flag", "0", False),
        ("flag", "", False),
        ("integer", None, 5),
        ("integer", "", 5),
        ("integer", " 7 ", 7),
        ("items", None, ["a"]),
        ("items", "a, b,,c ", ["a", "b", "c"]),
        ("url", None, "http://a"),
        ("url", "https://b:1/c", "https://b:1/c"),
        ("choice", None, "A"),
        ("choice", "b", "B"),
    ],
)
def test_a_right_value(monkeypatch, reader, raw, value):
    monkeypatch.delenv("X", raising=False)
    if raw is not None:
        monkeypatch.setenv("X", raw)
    assert READERS[reader]() == value


@pytest.mark.parametrize(
    ("reader", "raw"),
    [
        ("flag", "maybe"),
        ("integer", "1.5"),
        ("integer", "0"),
        ("integer", "10"),
        ("integer", "9" * 5000),
        ("url", "a"),
        ("url", "ftp://a"),
        ("url", "http://["),
        ("url", "http://a:b"),
        ("choice", "c"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch, reader, raw):
    monkeypatch.setenv("X", raw)
    with pytest.raises(ImproperlyConfigured, match=r"^X=.*\.$"):
        READERS[reader]()


def test_a_folder_is_made_and_must_be_one(monkeypatch, tmp_path):
    monkeypatch.setenv("X", str(tmp_path / "a" / "b"))
    assert env.directory("X", tmp_path).is_dir()

    (tmp_path / "file").touch()
    monkeypatch.setenv("X", str(tmp_path / "file"))
    with pytest.raises(ImproperlyConfigured, match="X="):
        env.directory("X", tmp_path)


def test_a_secret_is_made_once_and_kept_to_oneself(tmp_path, monkeypatch):
    monkeypatch.delenv("X", raising=False)
    path = tmp_path / "secret"

    first = env.stored_secret("X", path)

    assert env.stored_secret("X", path) == first
    assert len(first) >= 48
    assert path.stat().st_mode & 0o777 == 0o600


def test_processes_that_start_together_share_one_secret(tmp_path, monkeypatch):
    monkeypatch.delenv("X", raising=False)

    made = at_once([lambda: env.stored_secret("X", tmp_path / "secret")] * 16)

    assert len(set(made)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_secret_that_is_too_short_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("X", "short")
    with pytest.raises(ImproperlyConfigured):
        env.stored_secret("X", tmp_path / "secret")

    monkeypatch.delenv("X")
    (tmp_path / "secret").write_text("")
    with pytest.raises(ImproperlyConfigured):
        env.stored_secret("X", tmp_path / "secret")


def test_mail_goes_where_the_url_says(monkeypatch):
    monkeypatch.delenv("X", raising=False)
    assert env.mail("X")["EMAIL_BACKEND"].endswith(".console.EmailBackend")

    monkeypatch.setenv("X", "smtp+tls://a%40b.c:p%2Fw@mail.example:587")
    found = env.mail("X")

    assert found["EMAIL_BACKEND"].endswith(".smtp.EmailBackend")
    assert (found["EMAIL_HOST"], found["EMAIL_PORT"], found["EMAIL_USE_TLS"]) == (
        "mail.example", 587, True
    )  # fmt: skip
    assert (found["EMAIL_HOST_USER"], found["EMAIL_HOST_PASSWORD"]) == ("a@b.c", "p/w")
