"""Plain INSERTs for the tables that every request writes: a fraction of bulk_create's cost.

bulk_create builds an object per row and asks each of its fields several times, which for small
groups costs more than the database does. Here the columns are worked out once per process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from django.db import connection, models

Adapter = Callable[[Any], Any]
to_json = json.JSONEncoder().encode


def insert_rows(model: type[models.Model], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows given by attribute name; what a row leaves out gets the field's default.

    Values are written as they are given, so constraints are the database's. No signals, no
    generated keys. Raises IntegrityError.
    """
    table, columns, fields = _plan(model, connection.vendor)
    most = connection.features.max_query_params
    size = max(1, most // len(fields)) if most else len(rows)
    line = f"({', '.join(['%s'] * len(fields))})"
    with connection.cursor() as cursor:
        for start in range(0, len(rows), size or 1):
            part = rows[start : start + size]
            values = [
                adapt(row[name] if name in row else field.get_default())
                for row in part
                for name, field, adapt in fields
            ]
            # Names from the model and placeholders only.
            sql = f"INSERT INTO {table} ({columns}) VALUES {', '.join([line] * len(part))}"  # noqa: S608
            cursor.execute(sql, values)


@cache
def _plan(
    model: type[models.Model], vendor: str
) -> tuple[str, str, list[tuple[str, models.Field[Any, Any], Adapter]]]:
    del vendor  # part of the key: adapters differ
    quote = connection.ops.quote_name
    fields = [
        field
        for field in model._meta.concrete_fields
        if not isinstance(field, models.AutoField) and not field.generated
    ]
    columns = ", ".join(quote(field.column) for field in fields)
    plan = [(field.attname, field, _adapter(field)) for field in fields]
    return quote(model._meta.db_table), columns, plan


def _adapter(field: models.Field[Any, Any]) -> Adapter:
    """How a Python value goes into this column; into a foreign key's, as into what it points to."""
    field = field.target_field if field.is_relation else field  # type: ignore[attr-defined]
    match field.get_internal_type():
        case "UUIDField" if not connection.features.has_native_uuid_field:
            return lambda value: value.hex
        case "DateTimeField":
            return connection.ops.adapt_datetimefield_value
        case "DecimalField":
            return lambda value: connection.ops.adapt_decimalfield_value(
                value,
                field.max_digits,  # type: ignore[attr-defined]
                field.decimal_places,  # type: ignore[attr-defined]
            )
        case "JSONField":
            return lambda value: None if value is None else to_json(value)
        case _:
            return lambda value: value
