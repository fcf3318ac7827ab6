"""The accounts app."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """See the package's text."""

    name = "accounts"

    def ready(self) -> None:
        """Listen to what sign-in tells."""
        from accounts.sign_in import receivers  # noqa: F401, PLC0415 - needs the models
