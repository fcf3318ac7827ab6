"""The project itself as an app: it carries the process commands."""

from django.apps import AppConfig


class CasolaSiteConfig(AppConfig):
    """Commands `up` and `web`."""

    name = "casola_site"
    verbose_name = "Casola"
