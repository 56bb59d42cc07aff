"""Columns of Parquet files as bytes: copied from file to file as they are, and joined under one footer.

A footer (`FileMetaData` of the Parquet format, in Thrift's compact protocol) lists row groups, and those list where
the bytes of each column begin. Copying them and saying where they are now costs a tenth of reading and writing the
values, and nothing of an odd column is lost, as nobody looks into it.

    Struct   a Thrift struct: its fields by number, each the kind of its value and the value
"""

from __future__ import annotations

from collections.abc import Sequence
from io import SEEK_END
from typing import Any, BinaryIO, TypeAlias

from mobile_sentiment_ops.errors import UnreadableFile

Struct: TypeAlias = dict[int, tuple[int, Any]]

MAGIC = b"PAR1"
COPY_BYTES = 4 * 2**20

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _, _STRUCT = range(1, 13)
_SCHEMA, _ROWS, _GROUPS, _PAIRS, _ORDERS = 2, 3, 4, 5, 7  # fields of FileMetaData
_COLUMNS, _BYTES, _GROUP_ROWS, _SORTING, _GROUP_PLACE, _PACKED = range(1, 7)  # of RowGroup
_PLACE, _FACTS = 2, 3  # of ColumnChunk; beside them are another file, page indexes and keys
_SIZE, _DATA, _INDEX, _DICTIONARY, _BLOOM, _BLOOM_SIZE = 7, 9, 10, 11, 14, 15  # of ColumnMetaData
_CHILDREN = 5  # of SchemaElement


def read_footer(file: BinaryIO) -> Struct:
    """The footer of a Parquet file that pyarrow has opened; UnreadableFile for one in a form it does not write."""
    size = file.seek(-8, SEEK_END)
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != MAGIC or length > size:
        raise UnreadableFile("its footer is encrypted or cut off; expected plain Parquet")
    file.seek(size - length)
    return parsed(file.read(length))


def footer_bytes(footer: Struct, groups: Sequence[Struct]) -> bytes:
    """The end of a file with these row groups, whose columns and facts are those of `footer`."""
    rows = sum(group[_GROUP_ROWS][1] for group in groups)
    data = packed({**footer, _ROWS: (_I64, rows), _GROUPS: (_LIST, (_STRUCT, list(groups)))})
    return data + len(data).to_bytes(4, "little") + MAGIC


def groups_of(footer: Struct) -> list[Struct]:
    """The row groups."""
    found: list[Struct] = footer[_GROUPS][1][1]
    return found


def copyable(footer: Struct) -> bool:
    """Whether all columns are in this file and none is encrypted."""
    chunks = (chunk for group in groups_of(footer) for chunk in group[_COLUMNS][1][1])
    return all(_FACTS in chunk and not chunk.keys() & {1, 8, 9} for chunk in chunks)


def widened(footer: Struct, model: Struct, added: int) -> Struct:
    """A footer with the last so many columns of `model` too, flat ones, and with the key-value pairs of `model`."""
    kind, elements = footer[_SCHEMA][1]
    root = {**elements[0], _CHILDREN: (_I32, elements[0][_CHILDREN][1] + added)}
    wide = {**footer, _SCHEMA: (_LIST, (kind, [root, *elements[1:], *model[_SCHEMA][1][1][-added:]]))}
    if _ORDERS in footer:
        wide[_ORDERS] = (_LIST, (_STRUCT, footer[_ORDERS][1][1] + model[_ORDERS][1][1][-added:]))
    wide.pop(_PAIRS, None)
    return dict(sorted((wide | {key: model[key] for key in (_PAIRS,) if key in model}).items()))


def copy_group(parts: Sequence[tuple[Struct, BinaryIO]], out: BinaryIO) -> Struct:
    """Copy the columns of row groups of the same rows one after the other, each from its file, to the end of `out`;
    gives the row group that they are there. Page indexes and Bloom filters, which are optional, stay behind."""
    start, chunks = out.tell(), []
    for group, file in parts:
        for chunk in group[_COLUMNS][1][1]:
            facts: Struct = {**chunk[_FACTS][1]}
            for optional in (_INDEX, _BLOOM, _BLOOM_SIZE):
                facts.pop(optional, None)
            pages = [facts[key][1] for key in (_DATA, _DICTIONARY) if key in facts and facts[key][1] > 0]
            moved = out.tell() - min(pages)
            for key in (_DATA, _DICTIONARY):
                if key in facts and facts[key][1] > 0:
                    facts[key] = (_I64, facts[key][1] + moved)
            _copy(file, min(pages), facts[_SIZE][1], out)
            chunks.append({_PLACE: (_I64, 0), _FACTS: (_STRUCT, facts)})
    first = parts[0][0]
    return {
        _COLUMNS: (_LIST, (_STRUCT, chunks)),
        _BYTES: (_I64, sum(group[_BYTES][1] for group, _ in parts)),
        _GROUP_ROWS: first[_GROUP_ROWS],
        **{key: first[key] for key in (_SORTING,) if key in first},
        _GROUP_PLACE: (_I64, start),
        _PACKED: (_I64, out.tell() - start),
    }


def _copy(file: BinaryIO, start: int, size: int, out: BinaryIO) -> None:
    file.seek(start)
    while size:
        if not (data := file.read(min(size, COPY_BYTES))):
            raise UnreadableFile("it ends within a column; fetch the file again")
        out.write(data)
        size -= len(data)


# --- Thrift's compact protocol


def parsed(data: bytes) -> Struct:
    """A struct from its bytes.

    >>> parsed(packed({1: (5, -3), 20: (8, b"app"), 21: (9, (6, [1, 2**40])), 22: (1, None)}))
    {1: (5, -3), 20: (8, b'app'), 21: (9, (6, [1, 1099511627776])), 22: (1, None)}
    """
    return _Reader(data).struct()


def packed(struct: Struct) -> bytes:
    """The bytes of a struct."""
    out = bytearray()
    _write(_STRUCT, struct, out)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self) -> Struct:
        found, number = {}, 0
        while head := self._byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._signed()
            found[number] = (kind, None if kind in (_TRUE, _FALSE) else self._value(kind))
        return found

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return head & 15, [self._value(head & 15) for _ in range(count)]
        if kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
            return self._bytes(8 if kind == _DOUBLE else 1)
        raise UnreadableFile(f"its footer holds a value of kind {kind}, which Parquet does not have; write it again")

    def _byte(self) -> int:
        try:
            found = self._data[self._at]
        except IndexError as err:
            raise UnreadableFile("its footer ends too early; fetch the file again") from err
        self._at += 1
        return found

    def _bytes(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise UnreadableFile("its footer ends too early; fetch the file again")
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        found = shift = 0
        while True:
            byte = self._byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7

    def _signed(self) -> int:
        found = self._unsigned()
        return (found >> 1) ^ -(found & 1)


def _write(kind: int, value: Any, out: bytearray) -> None:
    if kind in (_I16, _I32, _I64):
        _write_unsigned(value << 1 if value >= 0 else (-value << 1) - 1, out)
    elif kind == _BINARY:
        _write_unsigned(len(value), out)
        out += value
    elif kind in (_LIST, _SET):
        inner, values = value
        out.append(min(len(values), 15) << 4 | inner)
        if len(values) >= 15:
            _write_unsigned(len(values), out)
        for one in values:
            _write(inner, one, out)
    elif kind == _STRUCT:
        before = 0
        for number, (inner, one) in value.items():
            near = 0 < number - before < 16
            out.append((number - before if near else 0) << 4 | inner)
            if not near:
                _write(_I16, number, out)
            if inner not in (_TRUE, _FALSE):
                _write(inner, one, out)
            before = number
        out.append(0)
    else:
        out += value


def _write_unsigned(value: int, out: bytearray) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
