"""The inference app."""

from django.apps import AppConfig


class InferenceConfig(AppConfig):
    """See the package's text."""

    name = "inference"
