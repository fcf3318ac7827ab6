"""Keyset pagination of the native API: `limit`, `after`, `order`."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet

from casola_site.core.errors import InvalidRequest
from casola_site.core.ids import can_be_id

MAX_LIMIT = 100
LIMIT = re.compile(r"[0-9]{1,5}")


def page(
    rows: QuerySet,
    params: Any,
    *,
    key: str = "public_id",
    default: int = 20,
    most: int = MAX_LIMIT,
    anchors: QuerySet | None = None,
) -> tuple[list[Model], bool]:
    """One page of `rows`, newest first (`order=asc` turns it); returns (rows, has_more).

    `after` names one of `anchors`, by default of `rows`: where a row may leave the list between two
    pages, the wider set says where it stood. Raises InvalidRequest for a limit outside 1 to `most`,
    an unknown order or an unknown `after`.
    """
    raw = params.get("limit", str(default))
    if not LIMIT.fullmatch(raw) or not 1 <= int(raw) <= most:
        raise InvalidRequest(f"limit must be 1 to {most}", code="invalid_value", param="limit")
    order = params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc", code="invalid_value", param="order")
    sign = "" if order == "asc" else "-"
    rows = rows.order_by(f"{sign}created_at", f"{sign}pk")
    after = params.get("after")
    if after:
        anchor = _anchor(rows if anchors is None else anchors, key, after)
        rows = (
            rows.filter(created_at__lte=anchor.created_at)
            if order == "desc"
            else rows.filter(created_at__gte=anchor.created_at)
        )
        rows = rows.exclude(
            **{
                "created_at": anchor.created_at,
                f"pk__{'gte' if order == 'desc' else 'lte'}": anchor.pk,
            }
        )
    limit = int(raw)
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def _anchor(rows: QuerySet, key: str, after: str) -> Any:
    model = rows.model
    try:
        if can_be_id(after):
            return model._default_manager.filter(pk__in=rows.values("pk")).get(**{key: after})
    except (model.DoesNotExist, ValidationError, ValueError):
        pass
    raise InvalidRequest("after names nothing in this list", code="invalid_value", param="after")
