"""Arrow tables as the `Tables` port keeps them: one type for each sort of value, so that what one
writer calls `large_string` and another `string` is the same column."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mobile_sentiment_ops.errors import StoreError
from mobile_sentiment_ops.ports import Which


def fit_schema(rows: pa.Table, known: pa.Schema | None = None) -> pa.Table:
    """`rows` with the columns of `known` first (nulls where they are missing), then new ones.

    Text becomes `string`, times become microseconds in UTC, a column of nulls alone becomes text.
    Raises StoreError when a value does not fit its column's known type.

    >>> known = pa.schema({"review_id": pa.string(), "rating": pa.int8()})
    >>> fitted = fit_schema(pa.table({"app": ["lamp"], "review_id": ["r1"]}), known)
    >>> fitted.to_pylist()
    [{'review_id': 'r1', 'rating': None, 'app': 'lamp'}]
    """
    fields = list(known or []) + [
        pa.field(field.name, _plain(field.type))
        for field in rows.schema
        if known is None or field.name not in known.names
    ]
    return pa.table([_column(rows, field) for field in fields], schema=pa.schema(fields))


def choice(
    table: str, known: pa.Schema, columns: Sequence[str] | None, which: Which
) -> tuple[list[str], pc.Expression | None]:
    """The names of the wanted columns, and the condition of the wanted rows; StoreError for a column
    that the table does not have.

    >>> choice("reviews", pa.schema({"app": pa.string()}), None, {"equals": {"app": "lamp"}})
    (['app'], <pyarrow.compute.Expression (app == "lamp")>)
    """
    wanted, equals, since = known.names if columns is None else list(columns), which.get("equals"), which.get("since")
    for name in [*wanted, *(equals or {}), *(since or ())[:1]]:
        if name not in known.names:
            raise StoreError(f"table {table} has no column {name}; it has {', '.join(known.names)}")
    parts = [pc.field(name) == value for name, value in (equals or {}).items()]
    if since is not None:
        parts.append(pc.field(since[0]) >= pa.scalar(since[1], known.field(since[0]).type))
    return wanted, functools.reduce(operator.and_, parts) if parts else None


def _column(rows: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in rows.column_names:
        return pa.nulls(rows.num_rows, field.type)
    found = rows.column(field.name)
    try:
        return found.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise StoreError(f"column {field.name} holds {found.type}, the table expects {field.type}: {err}") from err


def _plain(given: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(given):
        return _plain(given.value_type)
    if pa.types.is_timestamp(given):
        return pa.timestamp("us", tz="UTC")
    if pa.types.is_null(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given):
        return pa.string()
    if pa.types.is_unsigned_integer(given):  # Delta has none: the next wider signed one
        return {8: pa.int16(), 16: pa.int32()}.get(given.bit_width, pa.int64())
    if pa.types.is_large_binary(given) or pa.types.is_binary_view(given):
        return pa.binary()
    return given
