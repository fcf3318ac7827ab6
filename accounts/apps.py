"""The accounts app."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """See the package's text."""

    name = "accounts"
