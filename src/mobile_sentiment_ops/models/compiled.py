"""A model as servers use it: one file that is mapped, checked and scored from as it lies.

    compile_model     what a trained model knows, laid out for `_scorer.c`
    CompiledModel     such a file, opened
    check_compiled    whether it answers as the model that it was made of

Kept buckets stand in `blocks`: of every 32, which are kept and how many are before them, so a bucket's column
is a count of bits. The linear kinds have `rows`, one for each column: its weight, and what it tells of the three
classes with the calibration worked in. Trees have `nodes`; `mix` and `bias` calibrate their sums.

The file: signature, format, size of the header; the header in JSON; arrays, each at a multiple of 64 bytes. It holds
numbers alone, and each is checked when it is opened. Without the part in C numpy does the same, far slower.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256 as hash_of
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import BundleError, DataError, FormatTooNew, ModelError
from mobile_sentiment_ops.models.calibration import Calibration, Offsets
from mobile_sentiment_ops.models.features import Features
from mobile_sentiment_ops.models.kernel import TABLE, UNICODE_VERSION, Grams, Texts, batches, counted, weighed
from mobile_sentiment_ops.models.kinds import grams_of
from mobile_sentiment_ops.models.linear import LinearScorer
from mobile_sentiment_ops.models.scorers import PriorScorer, TreeScorer
from mobile_sentiment_ops.models.trees import Trees
from mobile_sentiment_ops.types import LABELS, Prediction

if TYPE_CHECKING:
    from mobile_sentiment_ops.models.model import SentimentModel

_scorer: ModuleType | None
try:
    from mobile_sentiment_ops.models import _scorer
except ImportError:
    _scorer = None
if _scorer is not None:
    _scorer.load(*TABLE)

COMPILED_FORMAT: Final = 1
MOST_APART = 1e-6
"""How far a compiled model's probability may be from the model's: sums are taken in another order."""

_START, _SIGNATURE, _ALIGNED = struct.Struct("<8sII"), b"MSOmodel", 64
_ELSEWHERE = np.uint32(1 << 31)
_NODE = np.dtype([("below", "<f4"), ("left", "<i4"), ("right", "<i4"), ("column", "<u4")])
_LAYOUT = {
    "blocks": np.dtype(("<u4", (2,))),
    "rows": np.dtype(("<f4", (4,))),
    "nodes": _NODE,
    "trees": np.dtype(("<i4", (2,))),
    "mix": np.dtype(("<f8", (3,))),
    "bias": np.dtype("<f8"),
}
_AGAIN = "remove it: it is compiled again from its bundle"

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Scored:
    """The answers for n texts: `labels` (n,), indices into LABELS, and `probabilities` (n, 3)."""

    labels: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BucketRows:
    """Rows [weight, negative, neutral, positive] by bucket, zeros for one that is not kept."""

    blocks: npt.NDArray[np.uint32]
    kept: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        return 32 * len(self.blocks), 4

    def columns(self, buckets: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
        """Where the rows of these buckets are among the kept ones; -1 for those that are not kept."""
        kept, before = np.moveaxis(self.blocks[buckets >> 5], -1, 0)
        place = (buckets & 31).astype(np.uint32)
        column = before + np.bitwise_count(kept & ((np.uint32(1) << place) - np.uint32(1)))
        return np.where(kept >> place & 1, column.astype(np.int32), np.int32(-1))

    def __getitem__(self, buckets: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        columns = self.columns(buckets)
        found = np.zeros((*columns.shape, 4), np.float32)
        found[columns >= 0] = self.kept[columns[columns >= 0]]
        return found


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """An opened file. It may be used by several threads at once."""

    kind: str
    bundle_hash: str
    offsets: Offsets
    grams: Grams
    arrays: Arrays = field(repr=False)
    scorer: Any
    """What is written in C, or None."""

    @classmethod
    def open(cls, path: Path, sha256: str | None = None) -> CompiledModel:
        """The model of a file, which is mapped: processes share it. BundleError when its hash is another one."""
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as err:  # ValueError: it is empty
            raise BundleError(f"the compiled model {path.name} cannot be mapped: {err}; {_AGAIN}") from err
        try:
            return cls.of(data, sha256)
        except BundleError as err:
            raise BundleError(f"{path.name}: {err}") from err

    @classmethod
    def of(cls, data: bytes | mmap.mmap, sha256: str | None = None) -> CompiledModel:
        """The model of a file's bytes. BundleError names what is wrong, FormatTooNew is for a later release's."""
        if sha256 is not None and (digest := hash_of(data).hexdigest()) != sha256:
            raise BundleError(
                f"it was changed: the compiled model has the sha256 {digest[:12]}, expected {sha256[:12]}; {_AGAIN}"
            )
        signature, written, size = _START.unpack_from(bytes(data[: _START.size]).ljust(_START.size))
        if signature != _SIGNATURE:
            raise BundleError(f"this is no compiled model, it begins with {signature!r}; {_AGAIN}")
        if written > COMPILED_FORMAT:
            raise FormatTooNew(
                f"the compiled model has format {written}, this release reads {COMPILED_FORMAT}; upgrade"
            )
        try:
            header = json.loads(bytes(data[_START.size : _START.size + size]))
            words, shortest, longest, bits = header["grams"]
            negative, neutral, positive = map(float, header["offsets"])
            kind, bundle_hash, unicode = (str(header[name]) for name in ("kind", "bundle_hash", "unicode"))
            grams, offsets = Grams(words, (shortest, longest), bits), (negative, neutral, positive)
            arrays, begin = {}, _aligned(_START.size + size)
            for name, dtype in _LAYOUT.items():
                at, count = header["arrays"][name]
                arrays[name] = np.require(np.frombuffer(data, dtype, count, begin + at), requirements="A")
            scorer = None
            if _scorer is not None:
                favour = np.exp(np.clip(offsets, -50, 50))
                scorer = _scorer.Scorer((words, shortest, longest, bits), *arrays.values(), favour)
        except (ValueError, TypeError, LookupError, OverflowError, AttributeError, RecursionError) as err:
            raise BundleError(f"the compiled model is not as it is written: {err} is wrong; {_AGAIN}") from err
        if unicode != UNICODE_VERSION:
            raise BundleError(f"its texts are read by Unicode {unicode}, here by {UNICODE_VERSION}; {_AGAIN}")
        return cls(kind, bundle_hash, offsets, grams, arrays, scorer)

    @property
    def rows(self) -> BucketRows:
        """Of the linear kinds, by bucket: `rows[buckets]` is (n, 4)."""
        return BucketRows(self.arrays["blocks"], self.arrays["rows"])

    @property
    def bias(self) -> npt.NDArray[np.float64]:
        """What the logits (3,) of a text without a kept feature are."""
        return self.arrays["bias"]

    def scored(self, texts: Texts) -> Scored:
        """The answers for texts. DataError names one that is not valid Unicode; a null is an empty text."""
        made = Scored(np.empty(len(texts), np.uint8), np.empty((len(texts), len(LABELS))))
        if self.scorer is None:
            made.probabilities[:] = self._probabilities(texts)
            made.labels[:] = (made.probabilities * np.exp(self.offsets)).argmax(axis=1)
            return made
        try:
            for given, data, first in batches(texts):
                part = slice(first, first + len(given))
                self.scorer.many(given, data, first, made.labels[part], made.probabilities[part])
        except ValueError as err:
            raise DataError(f"{err}; leave it out or mend its encoding") from err
        return made

    def one(self, text: str) -> tuple[int, float, float, float]:
        """The label of one text, as an index into LABELS, and its probabilities."""
        if self.scorer is None:
            found = self.scored([text])
            return (int(found.labels[0]), *found.probabilities[0].tolist())
        try:
            return self.scorer.one(text)  # type: ignore[no-any-return]
        except ValueError as err:
            raise DataError(f"{err}; leave it out or mend its encoding") from err

    def predict(self, texts: Texts, ratings: object = None) -> list[Prediction]:  # noqa: ARG002
        """An answer for each text, in order. Stars may be given as to a trained model, and are not looked at."""
        found = self.scored(texts)
        answers = zip(found.labels.tolist(), found.probabilities.tolist(), strict=True)
        return [Prediction(LABELS[label], row[label], (row[0], row[1], row[2])) for label, row in answers]

    @staticmethod
    def rendered(scored: Scored, prefix: str, first: int) -> bytes:
        """The rows of an answer in JSON with commas between. Ids are `prefix`, in plain letters, and a number from
        `first` on; probabilities have at most six decimals.

        >>> found = Scored(np.array([2], np.uint8), np.array([[0.01, 0.0600004, 0.9299996]]))
        >>> CompiledModel.rendered(found, "a", 7).decode().split(",")[1:4]
        ['"prediction_id":"a-7"', '"sentiment":"Positive"', '"confidence":0.93']
        """
        labels, probabilities = scored.labels, scored.probabilities
        if _scorer is not None:
            made: bytes = _scorer.rendered(labels, probabilities, prefix.encode(), first)
            return made
        rows, every = [], (probabilities * 1e6 + 0.5).astype(int).tolist()
        for number, (label, millionths) in enumerate(zip(labels.tolist(), every, strict=True), first):
            texts = [f"{part / 1e6:.6f}".rstrip("0").replace(".", ".0", part % 1_000_000 == 0) for part in millionths]
            shares = ",".join(f'"{name}":{text}' for name, text in zip(LABELS, texts, strict=True))
            said = (
                f'"sentiment":"{LABELS[label]}","confidence":{texts[label]},"probabilities":{{{shares}}},"error":null'
            )
            rows.append(f'{{"review_id":null,"prediction_id":"{prefix}-{number}",{said}}}')
        return ",".join(rows).encode()

    def _probabilities(self, texts: Texts) -> npt.NDArray[np.float64]:
        """What `_scorer.c` computes."""
        found, rows, nodes = counted(texts, self.grams), self.rows, self.arrays["nodes"]
        columns = rows.columns(np.arange(rows.shape[0]))
        if nodes.size:
            features = Features(np.flatnonzero(columns >= 0).astype(np.int32), np.empty(0, np.float32), columns)
            sums = _trees_of(nodes, self.arrays["trees"]).scores(features.kept(found), features.buckets.size)
        else:
            values = weighed(found, columns, rows.kept[:, 0].copy())
            told, of_text = rows.kept[values.buckets, 1:] * values.counts[:, None].astype(float), values.rows
            sums = np.stack([np.bincount(of_text, part, values.starts.size - 1) for part in told.T], axis=1)
        return Calibration(self.arrays["mix"], self.bias).probabilities(sums)


def suspects(texts: list[str], most_chars: int) -> list[int]:
    """The places of texts that may be too long, blank or no text; most texts are found to be none of it at once.

    >>> suspects(["Love it", "", "so " * 9, "ดี"], 20)
    [1, 2, 3]
    """
    if _scorer is not None:
        found: list[int] = _scorer.suspects(texts, most_chars)
        return found
    return [
        at
        for at, text in enumerate(texts)
        if not ("!" <= text[:1] <= "~" and len(text.encode("utf-8", "replace")) <= most_chars and text.isprintable())
    ]


def compile_model(model: SentimentModel, bundle_hash: str) -> bytes:
    """The file of a trained model; ModelError for a kind that is not for serving.

    >>> from mobile_sentiment_ops.models.model import SentimentModel
    >>> prior, plain = PriorScorer(np.array([0.2, 0.1, 0.7])), Calibration(np.eye(3), np.zeros(3))
    >>> file = compile_model(SentimentModel("majority", {}, prior, plain, (0.0, 0.0, 0.0)), "hash")
    >>> CompiledModel.of(file).predict(["Love it"])[0].label
    <Label.POSITIVE: 'Positive'>
    """
    calibration, grams = model.calibration, grams_of(model.parameters)
    buckets, arrays = np.empty(0, np.int32), {name: np.empty(0, dtype) for name, dtype in _LAYOUT.items()}
    mix, bias = np.eye(len(LABELS)), calibration.bias
    match model.scorer:
        case LinearScorer() as scorer:
            told = scorer.weights.astype(float) @ calibration.weights
            buckets, bias = scorer.features.buckets, bias + told[-1]
            arrays["rows"] = np.column_stack([scorer.features.weights, told[:-1]])
        case TreeScorer() as scorer:
            buckets, mix = scorer.features.buckets, calibration.weights
            bias = bias + scorer.trees.base @ mix
            arrays["nodes"] = _nodes_of(scorer.trees)
            arrays["trees"] = np.column_stack([scorer.trees.roots, scorer.trees.classes])
        case PriorScorer() as scorer:
            bias = bias + np.log(scorer.shares) @ calibration.weights
        case _:
            raise ModelError(f"a model of kind {model.kind} looks at stars and is not for serving; promote another")
    if buckets.size and buckets[-1] >> grams.bits:
        raise ModelError(f"the model keeps bucket {buckets[-1]:,}, expected below {1 << grams.bits:,}; train it again")
    kept = np.zeros(1 << grams.bits, np.bool_)
    kept[buckets] = True
    before = np.cumsum([0, *kept.reshape(-1, 32).sum(axis=1)[:-1]])
    arrays["blocks"] = np.column_stack([np.packbits(kept, bitorder="little").view("<u4"), before])
    arrays |= {"mix": mix, "bias": bias}
    places, parts, at = {}, [], 0
    for name, dtype in _LAYOUT.items():
        places[name] = [at, len(arrays[name])]
        parts.append(np.ascontiguousarray(arrays[name], dtype.base).tobytes())
        at = _aligned(at + len(parts[-1]))
    header = {
        "kind": model.kind,
        "bundle_hash": bundle_hash,
        "unicode": UNICODE_VERSION,
        "grams": [grams.words, *grams.characters, grams.bits],
        "offsets": model.offsets,
        "arrays": places,
    }
    described = json.dumps(header).encode()
    parts.insert(0, _START.pack(_SIGNATURE, COMPILED_FORMAT, len(described)) + described)
    return b"".join(part.ljust(_aligned(len(part)), b"\0") for part in parts)


def check_compiled(compiled: CompiledModel, model: SentimentModel, texts: Texts) -> None:
    """Raise ModelError when a compiled model does not answer as the model does."""
    found, expected = compiled.scored(texts), model.probabilities(texts)
    labels = model.decide(expected)
    wrong = (np.abs(found.probabilities - expected).max(axis=1) > MOST_APART) | (found.labels != labels)
    if wrong.any():
        at = int(wrong.argmax())
        ours = f"{LABELS[found.labels[at]]} {found.probabilities[at].round(7).tolist()}"
        theirs = f"{LABELS[labels[at]]} {expected[at].round(7).tolist()}"
        raise ModelError(f"text {at}: compiled says {ours}, the model {theirs}; it is not used: report this as a bug")


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _nodes_of(trees: Trees) -> npt.NDArray[Any]:
    leaves = trees.left == np.arange(trees.left.size)
    nodes = np.empty(trees.left.size, _NODE)
    nodes["below"] = np.where(leaves, trees.leaf, trees.threshold)
    nodes["left"], nodes["right"] = trees.left, trees.right
    elsewhere = ~leaves & (trees.absent_left != (trees.threshold > 0))
    nodes["column"] = trees.column.astype("<u4") | np.where(elsewhere, _ELSEWHERE, np.uint32(0))
    return nodes


def _trees_of(nodes: npt.NDArray[Any], trees: npt.NDArray[np.int32]) -> Trees:
    below, elsewhere = nodes["below"], nodes["column"] >= _ELSEWHERE
    return Trees(
        roots=trees[:, 0],
        classes=trees[:, 1],
        left=nodes["left"],
        right=nodes["right"],
        column=(nodes["column"] & ~_ELSEWHERE).astype(np.int32),
        threshold=below,
        absent_left=(below > 0) != elsewhere,
        leaf=below,
        base=np.zeros(len(LABELS)),
    )
