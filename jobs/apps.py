"""The jobs app."""

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """See the package's text."""

    name = "jobs"
