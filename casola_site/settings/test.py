"""Settings for tests: only overrides."""

from casola_site.settings.base import *  # noqa: F403

RUNNER_ENGINES = ["chat", "echo"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
