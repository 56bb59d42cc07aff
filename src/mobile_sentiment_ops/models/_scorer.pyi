from typing_extensions import Buffer

def load(blocks: Buffer, entries: Buffer, folded: Buffer, /) -> None: ...
def suspects(texts: list[str], most: int, /) -> list[int]: ...
def rendered(labels: Buffer, probabilities: Buffer, prefix: bytes, first: int, /) -> bytes: ...

class Scorer:
    def __new__(
        cls,
        grams: tuple[int, int, int, int],
        blocks: Buffer,
        rows: Buffer,
        nodes: Buffer,
        trees: Buffer,
        mix: Buffer,
        bias: Buffer,
        favour: Buffer,
        /,
    ) -> Scorer: ...
    def one(self, text: str, /) -> tuple[int, float, float, float]: ...
    def many(
        self,
        texts: tuple[str, ...] | Buffer,
        data: Buffer | None,
        first: int,
        labels: Buffer,
        probabilities: Buffer,
        /,
    ) -> None: ...
