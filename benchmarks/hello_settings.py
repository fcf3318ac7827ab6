"""Settings of the yardstick."""

from casola_site.settings.test import *  # noqa: F403

ASGI_APPLICATION = "benchmarks.hello.application"
