from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from mobile_sentiment_ops.data.manifest import read_manifest
from mobile_sentiment_ops.disk import read_folder
from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.registry.bundle import Bundle, pack_bundle, unpack_bundle

KEPT = Path(__file__).parents[1] / "fixtures" / "bundle_format_1"
Files = dict[str, bytes]


@pytest.fixture
def files() -> Files:
    """The files of a small bundle that an earlier release wrote."""
    return read_folder(KEPT)


@pytest.fixture
def bundle(files: Files) -> Bundle:
    return unpack_bundle(files, bundle_hash=hash_of(files))


def hash_of(files: Mapping[str, bytes]) -> str:
    return sha256(files["manifest.json"]).hexdigest()


def sealed_again(files: Files, version: object = 1) -> Files:
    """What a forger makes who knows how bundles are sealed."""
    rest = {name: content for name, content in files.items() if name != "manifest.json"}
    seals = {name: {"size": len(content), "sha256": sha256(content).hexdigest()} for name, content in rest.items()}
    return {**rest, "manifest.json": json.dumps({"format": version, "files": seals}).encode()}


# --- pack


def test_what_is_packed_is_unpacked(bundle: Bundle) -> None:
    card = {"kind": "lr", "seed": 3, "dataset": {"rows": (1, 2)}, "metrics": {"macro_f1": 0.74}, "note": "ดีมาก"}
    files, bundle_hash = pack_bundle(bundle.model, card=card, manifest=b"who was where")
    opened = unpack_bundle(files, bundle_hash=bundle_hash)
    assert opened.card == {**card, "dataset": {"rows": [1, 2]}}
    assert opened.manifest == b"who was where"
    texts = ["Love it", "It crashes", "ok", ""]
    assert (opened.model.probabilities(texts) == bundle.model.probabilities(texts)).all()
    assert opened.model.predict(texts) == bundle.model.predict(texts)


def test_the_same_input_has_the_same_hash_and_another_has_another(bundle: Bundle) -> None:
    def packed(card: Mapping[str, object], manifest: bytes = b"") -> str:
        return pack_bundle(bundle.model, card=card, manifest=manifest)[1]

    assert packed({"a": 1, "b": 2}) == packed({"b": 2, "a": 1})
    assert len({packed({}), packed({"a": 1}), packed({}, b"x")}) == 3


def test_a_card_is_strict_json(bundle: Bundle) -> None:
    card = {"metrics": {"f1": math.nan, "loss": [math.inf, 0.5]}}
    files, bundle_hash = pack_bundle(bundle.model, card=card, manifest=b"")
    assert json.loads(files["card.json"], parse_constant=pytest.fail) == {"metrics": {"f1": None, "loss": [None, 0.5]}}
    assert unpack_bundle(files, bundle_hash=bundle_hash).card["metrics"]["f1"] is None


# --- unpack


def test_a_bundle_of_format_1_opens_and_answers_as_it_did(bundle: Bundle) -> None:
    asked = json.loads((KEPT.parent / "bundle_format_1_answers.json").read_text("utf-8"))
    answers = bundle.model.predict([text for text, _, _ in asked])
    assert [answer.label.value for answer in answers] == [label for _, label, _ in asked]
    for answer, (_, _, probabilities) in zip(answers, asked, strict=True):
        assert answer.probabilities == pytest.approx(probabilities, abs=1e-6)
    assert bundle.model.kind == bundle.card["kind"] == "lr"
    assert read_manifest(bundle.manifest).fingerprint == bundle.card["dataset"]["fingerprint"]


def test_a_bundle_is_a_few_kilobytes_more_than_its_model(files: Files) -> None:
    assert sum(map(len, files.values())) < 60_000


NAMES = sorted(read_folder(KEPT))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda content: content[:-1] + bytes([content[-1] ^ 1]), id="a flipped bit at the end"),
        pytest.param(lambda content: bytes([content[0] ^ 128]) + content[1:], id="a flipped bit at the start"),
        pytest.param(lambda content: content[:-1], id="cut"),
        pytest.param(lambda content: content + b"\0", id="longer"),
        pytest.param(lambda content: b"", id="empty"),
    ],
)
def test_a_changed_file_is_named(files: Files, name: str, change: Callable[[bytes], bytes]) -> None:
    expected = "manifest.json has the hash" if name == "manifest.json" else f"{name} was changed: found"
    with pytest.raises(BundleError, match=expected):
        unpack_bundle({**files, name: change(files[name])}, bundle_hash=hash_of(files))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(files: Files, name: str) -> None:
    bundle_hash = hash_of(files)
    del files[name]
    with pytest.raises(BundleError, match=name):
        unpack_bundle(files, bundle_hash=bundle_hash)


@pytest.mark.parametrize("name", NAMES)
def test_a_renamed_file_is_missing(files: Files, name: str) -> None:
    bundle_hash = hash_of(files)
    files[f"{name}.old"] = files.pop(name)
    with pytest.raises(BundleError, match=name):
        unpack_bundle(files, bundle_hash=bundle_hash)


def test_two_files_that_changed_places_are_changed(files: Files) -> None:
    first, second = [name for name in NAMES if name.startswith("model/")][:2]
    swapped = {**files, first: files[second], second: files[first]}
    with pytest.raises(BundleError, match="was changed"):
        unpack_bundle(swapped, bundle_hash=hash_of(files))


@pytest.mark.parametrize("name", ["model/more.bin", "notes.txt", "model/../../escaped", "/etc/passwd"])
def test_a_file_too_many_is_named(files: Files, name: str) -> None:
    with pytest.raises(BundleError, match=f"'{name}' is not listed"):
        unpack_bundle({**files, name: b"x"}, bundle_hash=hash_of(files))


def test_another_bundles_hash_opens_nothing(files: Files) -> None:
    with pytest.raises(BundleError, match=r"bundle 000000000000: manifest.json has the hash .* another bundle"):
        unpack_bundle(files, bundle_hash="0" * 64)


@pytest.mark.parametrize("name", ["../escaped", "model/../../escaped", "/etc/passwd", "model\\..\\x", "c:x", ""])
def test_a_listed_name_that_leads_elsewhere_is_refused(files: Files, name: str) -> None:
    forged = sealed_again({**files, name: b"x"})
    with pytest.raises(BundleError, match="lists a file that may not be there"):
        unpack_bundle(forged, bundle_hash=hash_of(forged))


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_a_later_format_says_what_to_do(files: Files, version: object) -> None:
    later = sealed_again(files, version)
    with pytest.raises(BundleError, match=f"it has format {version!r}, this release reads 1; update this program"):
        unpack_bundle(later, bundle_hash=hash_of(later))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[]", "holds list"),
        (b"null", "holds NoneType"),
        (b'{"format": 1}', "does not list card.json"),
        (b'{"format": 1, "files": []}', "does not list card.json"),
        (b'{"format": 1, "files": {"card.json": null, "dataset.parquet": 3}}', "not listed"),
    ],
)
def test_a_manifest_that_is_none_is_refused(files: Files, content: bytes, problem: str) -> None:
    with pytest.raises(BundleError, match=problem):
        unpack_bundle({**files, "manifest.json": content}, bundle_hash=sha256(content).hexdigest())


def test_seals_that_are_none_are_refused(files: Files) -> None:
    seals = dict.fromkeys(name for name in files if name != "manifest.json")
    content = json.dumps({"format": 1, "files": seals}).encode()
    with pytest.raises(BundleError, match="was changed"):
        unpack_bundle({**files, "manifest.json": content}, bundle_hash=sha256(content).hexdigest())


@pytest.mark.parametrize("content", [b'{"macro_f1": NaN}', b"[1]", b"{", b"\xff"])
def test_a_card_that_is_no_strict_json_is_refused(files: Files, content: bytes) -> None:
    forged = sealed_again({**files, "card.json": content})
    with pytest.raises(BundleError, match=r"card\.json"):
        unpack_bundle(forged, bundle_hash=hash_of(forged))


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("model/")] + ["model/model.pkl"])
def test_a_pickle_in_any_place_is_never_read(files: Files, name: str, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    forged = sealed_again({**files, name: pickle.dumps(Trap(sprung))})
    with suppress(BundleError):  # a file that no kind knows is not looked at
        unpack_bundle(forged, bundle_hash=hash_of(forged))
    assert not sprung.exists()
    pickle.loads(forged[name])  # noqa: S301 - the trap is one
    assert sprung.exists()
