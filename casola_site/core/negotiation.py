"""Content negotiation: there is none. Official clients send Accept values we do not honour."""

from __future__ import annotations

from typing import Any

from rest_framework.negotiation import BaseContentNegotiation


class IgnoreAccept(BaseContentNegotiation):
    """Always the view's first parser and renderer."""

    def select_parser(self, request: Any, parsers: list[Any]) -> Any:
        """The first parser, whatever the Content-Type says; the parser checks it."""
        return parsers[0]

    def select_renderer(
        self, request: Any, renderers: list[Any], format_suffix: str | None = None
    ) -> Any:
        """The first renderer."""
        return renderers[0], renderers[0].media_type
