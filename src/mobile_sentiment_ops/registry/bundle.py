"""The model bundle: everything that a model is, as files that are named by their hashes.

    manifest.json     the format, and size and sha256 of every other file; its own sha256 names the bundle
    card.json         how the model came to be: dataset, figures, verdict, provenance
    dataset.parquet   the manifest of the dataset: who was in training, validation and test
    model/...         the model's own files
    README.md, ...    the cards for people
    reference.parquet, vocabulary.npy    what monitoring compares with; bundles of earlier releases have neither

A bundle is opened whole or refused: every byte is checked before any of it is used, and nothing in
it is code or a pickle. It is written in one order, the manifest last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from mobile_sentiment_ops.errors import BundleError, StoreError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.ports import checked_name

BUNDLE_FORMAT = 1
MANIFEST, CARD, DATASET, MODEL = "manifest.json", "card.json", "dataset.parquet", "model/"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: the model, its card, its dataset's manifest as bytes, and its other files by name."""

    model: SentimentModel
    card: Mapping[str, Any]
    manifest: bytes
    extra: Mapping[str, bytes] = field(default_factory=dict)


def pack_bundle(
    model: SentimentModel, *, card: Mapping[str, object], manifest: bytes, extra: Mapping[str, bytes] | None = None
) -> tuple[dict[str, bytes], str]:
    """All files of a bundle by name, and its hash; the same input has the same hash. `extra` are further files.

    A figure of the card that is no number (NaN, infinite) becomes null.
    """
    files = {
        CARD: _json(strict(card)),
        DATASET: manifest,
        **(extra or {}),
        **{f"{MODEL}{name}": content for name, content in model.files().items()},
    }
    return _sealed(files)


def unpack_bundle(files: Mapping[str, bytes], *, bundle_hash: str) -> Bundle:
    """The bundle of that hash, or BundleError that names the file that is missing, changed or too many."""
    try:
        _check(files, bundle_hash)
        card = _read_object(files[CARD], CARD)
        model = {name.removeprefix(MODEL): content for name, content in files.items() if name.startswith(MODEL)}
        extra = {name: files[name] for name in files if not name.startswith(MODEL) and name not in (CARD, DATASET)}
        return Bundle(SentimentModel.from_files(model), card, files[DATASET], extra)
    except BundleError as err:
        raise BundleError(f"bundle {bundle_hash[:12]}: {err}") from err


def _sealed(files: Mapping[str, bytes]) -> tuple[dict[str, bytes], str]:
    """The files with their manifest, and the manifest's hash."""
    seals = {checked_name(name): _seal(content) for name, content in sorted(files.items())}
    manifest = _json({"format": BUNDLE_FORMAT, "files": seals})
    return {**files, MANIFEST: manifest}, sha256(manifest).hexdigest()


def _seal(content: bytes) -> dict[str, object]:
    return {"size": len(content), "sha256": sha256(content).hexdigest()}


def _check(files: Mapping[str, bytes], bundle_hash: str) -> None:
    """Refuse files that are not exactly the ones that were packed under this hash."""
    if MANIFEST not in files:
        raise BundleError(f"there is no {MANIFEST} among its {len(files)} files; it was not written as a whole")
    if (found := sha256(files[MANIFEST]).hexdigest()) != bundle_hash:
        raise BundleError(f"{MANIFEST} has the hash {found[:12]}; it was changed, or is that of another bundle")
    manifest = _read_object(files[MANIFEST], MANIFEST)
    if (version := manifest.get("format")) != BUNDLE_FORMAT:
        raise BundleError(f"it has format {version!r}, this release reads {BUNDLE_FORMAT}; update this program")
    seals = manifest.get("files")
    if not isinstance(seals, dict) or not {CARD, DATASET} <= seals.keys():
        raise BundleError(f"{MANIFEST} does not list {CARD} and {DATASET}; expected every file with its size and hash")
    for name in seals:
        try:
            checked_name(name)
        except StoreError as err:
            raise BundleError(f"{MANIFEST} lists a file that may not be there: {err}") from err
    if missing := sorted(seals.keys() - files.keys()):
        raise BundleError(f"{_some(missing)} missing, listed in {MANIFEST}")
    if extra := sorted(files.keys() - seals.keys() - {MANIFEST}):
        raise BundleError(f"{_some(extra)} not listed in {MANIFEST}")
    for name, seal in seals.items():
        if (found_seal := _seal(files[name])) != seal:
            raise BundleError(f"{name} was changed: found {found_seal}, expected {seal}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
    return f"{names[0]!r}{more}"


def strict(value: object) -> object:
    """The value as strict JSON can hold it: a number that is none becomes null.

    >>> strict({"macro_f1": 0.7, "ece": float("nan"), "labels": ("Negative",)})
    {'macro_f1': 0.7, 'ece': None, 'labels': ['Negative']}
    """
    if isinstance(value, Mapping):
        return {str(key): strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True).encode()


def _read_object(content: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{name} is not readable as JSON: {err}") from err
    if not isinstance(value, dict):
        raise BundleError(f"{name} holds {type(value).__name__}, expected a JSON object")
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON value")
