from typing_extensions import Buffer

def load(blocks: Buffer, entries: Buffer, folded: Buffer, /) -> None: ...
def tokens(text: str, /) -> bytes: ...
def count(
    texts: tuple[str, ...] | Buffer,
    data: Buffer | None,
    first: int,
    row: int,
    words: int,
    shortest: int,
    longest: int,
    bits: int,
    starts: Buffer,
    buckets: Buffer,
    counts: Buffer,
    /,
) -> int: ...
def weigh(
    starts: Buffer,
    buckets: Buffer,
    counts: Buffer,
    columns: Buffer,
    weights: Buffer,
    to_starts: Buffer,
    to_columns: Buffer,
    to_values: Buffer,
    /,
) -> None: ...
