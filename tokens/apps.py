"""The tokens app."""

from django.apps import AppConfig


class TokensConfig(AppConfig):
    """See the package's text."""

    name = "tokens"
