"""Tags of every page: icons, moments, copyable ids."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from casola_site.core.budgets import BudgetState

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
    distance = abs(seconds) + (30 if seconds > 0 else 0)  # a week ahead stays one for a while
    for unit, size in STEPS:
        count = int(distance // size)
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


@register.filter
def limit(value: int | None) -> str:
    """A number with its thousands, or that there is no limit."""
    return "unlimited" if value is None else f"{value:,}"


@register.filter
def size(value: int | None) -> str:
    """Bytes in the largest unit that fits, thousands of the one before: `1.5 GB`."""
    if value is None:
        return "unlimited"
    number, names = float(value), ["bytes", "kB", "MB", "GB", "TB"]
    while round(number) >= 1000 and len(names) > 1:
        number /= 1000
        names.pop(0)
    digits = 0 if number >= 100 else 1
    return f"{number:,.{digits}f}".removesuffix(".0") + f" {names[0]}"


@register.filter
def plainly(value: object) -> str:
    """An old or new value of the audit as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {plainly(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(plainly, value))
    return "–" if value is None else str(value)


UNIT_WORDS = {
    "prompt_tokens": "Tokens in",
    "completion_tokens": "Tokens out",
    "cached_tokens": "Tokens cached",
    "audio_ms": "Audio",
    "video_ms": "Video",
    "compute_ms": "Compute",
}


@register.filter
def unit(name: str) -> str:
    """What a unit of the ledger is called."""
    return UNIT_WORDS.get(name, name.replace("_", " ").capitalize())


@register.filter
def quantity(value: int, name: str) -> str:
    """So many of a unit."""
    return duration(value) if name.endswith("_ms") else f"{value:,}"


@register.filter
def duration(milliseconds: int) -> str:
    """A length of time in its largest two units."""
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds else "0 s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


@register.filter
def amount(value: Decimal) -> str:
    """Money exactly, without the zeros that say nothing, but with two places."""
    text = f"{value:,.9f}".rstrip("0")
    whole, _, places = text.partition(".")
    return f"{whole}.{places.ljust(2, '0')}"


@register.filter
def share(state: BudgetState) -> int:
    """How much of a budget is gone, in percent."""
    return min(100, int(100 * (state.spent + state.reserved) / state.budget.amount))


@register.filter
def unlocal(value: float) -> str:
    """A number as SVG wants it."""
    return f"{value:g}"
