from typing import Any

def descend(
    starts: Any,
    columns: Any,
    values: Any,
    signs: Any,
    weights: Any,
    freedom: Any,
    cost: float,
    logistic: bool,
    epochs: int,
    tolerance: float,
    seed: int,
    /,
) -> int: ...
def margins(starts: Any, columns: Any, values: Any, weights: Any, sums: Any, /) -> None: ...
