"""Settings for tests: only overrides."""

from casola_site.settings.base import *  # noqa: F403

RUNNER_ENGINES = [
    "chat",
    "embeddings",
    "rerank",
    "echo",
    "speech",
    "images",
    "transcription",
    "upstream",
    "video",
]
MAIL_RATE = "100000/h"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):  # noqa: F405
    # A file: several threads and processes look at it.
    DATABASES["default"]["TEST"] = {"NAME": str(VAR_DIR / "test.sqlite3")}  # noqa: F405
