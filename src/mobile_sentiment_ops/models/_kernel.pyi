from collections.abc import Buffer

def load(table: bytes, /) -> None: ...
def tokens(data: bytes, /) -> bytes: ...
def count_tuple(
    texts: tuple[str, ...], first: int, words: int, shortest: int, longest: int, bits: int, /
) -> tuple[bytes, bytes, bytes]: ...
def count_arrow(
    data: Buffer | None,
    offsets: Buffer | None,
    valid: Buffer | None,
    start: int,
    count: int,
    width: int,
    first: int,
    words: int,
    shortest: int,
    longest: int,
    bits: int,
    /,
) -> tuple[bytes, bytes, bytes]: ...
