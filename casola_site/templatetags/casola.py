"""Tags of every page: icons, moments, copyable ids."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

STEPS = (("day", 86400), ("hour", 3600), ("minute", 60))


@register.simple_tag
def icon(name: str) -> SafeString:
    """A drawing from icons.svg, for the eye only."""
    return format_html(
        '<svg aria-hidden="true"><use href="{}#{}"></use></svg>', static("casola/icons.svg"), name
    )


@register.filter
def moment(value: datetime | None) -> SafeString | str:
    """How long ago or in how long, with the exact time (UTC) on hover; a dash for none."""
    if value is None:
        return "–"
    exact = timezone.localtime(value, timezone.get_default_timezone())
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>',
        exact.isoformat(timespec="seconds"),
        f"{exact:%Y-%m-%d %H:%M:%S}",
        spoken((value - timezone.now()).total_seconds()),
    )


def spoken(seconds: float) -> str:
    """The distance in the largest unit that fits: `3 hours ago`, `in 7 days`."""
    for unit, size in STEPS:
        count = int(abs(seconds) // size)
        if count:
            words = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"in {words}" if seconds > 0 else f"{words} ago"
    return "in a moment" if seconds > 0 else "just now"


@register.filter
def copyable(value: str) -> SafeString:
    """An id in mono with a button that copies it."""
    return format_html(
        '<span class="row"><code>{0}</code>'
        '<button class="button small" type="button" hidden data-copy="{0}">Copy</button></span>',
        value,
    )
