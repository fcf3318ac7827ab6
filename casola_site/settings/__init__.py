"""Settings: `base` reads the environment; `test` only overrides."""

from casola_site.settings.base import *  # noqa: F403
