"""The usage app."""

from django.apps import AppConfig


class UsageConfig(AppConfig):
    """See the package's text."""

    name = "usage"
