"""No byte of a bundle is trusted: flipped bits are refused, and nothing that reads one reads code or a pickle."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest

from bench.bundle import flipped, refused
from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.adapters.registry_mlflow import MlflowRegistry
from mobile_sentiment_ops.disk import read_folder
from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.kinds import KINDS
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.registry.bundle import MANIFEST, pack_bundle, unpack_bundle
from mobile_sentiment_ops.registry.pyfunc import _load_pyfunc
from mobile_sentiment_ops.settings import Mlflow

Files = dict[str, bytes]

WORDS = ("awful", "okay", "great")


def packed(kind: str) -> tuple[Files, str]:
    """A bundle of that kind, small and real."""
    rows = [(f"{WORDS[at % 3]} thing {at}", 1 + 2 * (at % 3), at % 3) for at in range(90)]
    frame = pl.DataFrame(rows, {"review_text": pl.Utf8, "rating": pl.Int8, "label": pl.Int8}, orient="row")
    cards = {"README.md": b"# A model\n", "DATA.md": b"# Its data\n"}
    card = {"kind": kind, "metrics": {"macro_f1": 0.5}}
    return pack_bundle(train(kind, frame, frame[:30], seed=0), card=card, manifest=b"rows", extra=cards)


@pytest.fixture(scope="module")
def lr() -> tuple[Files, str]:
    return packed("lr")


# --- flipped bits


def test_the_manifest_is_written_last(lr: tuple[Files, str]) -> None:
    assert list(lr[0])[-1] == MANIFEST
    assert {"README.md", "DATA.md", "card.json"} <= lr[0].keys()


def test_every_flipped_bit_is_refused(lr: tuple[Files, str]) -> None:
    files, bundle_hash = lr
    assert not refused(files, bundle_hash)
    chance = random.Random(5)  # noqa: S311 - which bits is no secret
    for _ in range(100):
        assert refused(flipped(files, chance), bundle_hash)


def test_every_file_is_among_those_that_are_flipped(lr: tuple[Files, str]) -> None:
    files, chance = lr[0], random.Random(5)  # noqa: S311
    changed = set()
    for _ in range(3_000):
        other = flipped(files, chance)
        (name,) = (name for name in files if other[name] != files[name])
        bits = int.from_bytes(files[name], "big") ^ int.from_bytes(other[name], "big")
        assert bits.bit_count() == 1
        changed.add(name)
    assert {"card.json", MANIFEST} <= changed
    assert len(changed) > 4


def test_a_manifest_with_a_flipped_bit_opens_nothing_in_mlflow_either(lr: tuple[Files, str], tmp_path: Path) -> None:
    """Its loader is not told the hash, so the manifest itself has to fall apart."""
    files, _ = lr
    for bit in random.Random(5).sample(range(len(files[MANIFEST]) * 8), 40):  # noqa: S311
        content = bytearray(files[MANIFEST])
        content[bit // 8] ^= 1 << bit % 8
        folder = tmp_path / str(bit)
        FolderBundles(tmp_path).put({**files, MANIFEST: bytes(content)}, str(bit))
        with pytest.raises(BundleError):
            _load_pyfunc(str(folder))


def test_a_bundle_of_before_the_cards_opens(lr: tuple[Files, str]) -> None:
    files, bundle_hash = pack_bundle(unpack_bundle(lr[0], bundle_hash=lr[1]).model, card={}, manifest=b"")
    assert "README.md" not in files
    assert unpack_bundle(files, bundle_hash=bundle_hash).model.kind == "lr"


# --- no pickle, no code

WATCHED = """
import json, marshal, pickle, sys
from pathlib import Path

seen, watching = [], False

def hook(event, _arguments):
    if not watching or event not in ("pickle.find_class", "marshal.loads", "exec", "compile"):
        return
    frame, names = sys._getframe(1), []
    while frame is not None:
        names.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    importing = any(file.startswith("<frozen importlib") for file, _ in names)
    literal = event == "compile" and any(name == "literal_eval" for _, name in names)  # parsed, never run
    if not importing and not literal:
        seen.append([event, *map(str, names[0])])

def trap(*_arguments, **_more):
    seen.append(["a pickle was read"])
    raise AssertionError("a pickle was read")

sys.addaudithook(hook)
sprung = pickle.dumps(Path)
code = marshal.dumps(compile("1", "-", "exec"))
watching = True
pickle.loads(sprung), marshal.loads(code), exec(compile("1", "-", "exec"))
caught, seen[:] = [event for event, *_ in seen], []
assert caught == ["pickle.find_class", "marshal.loads", "compile", "exec"], caught
pickle.load = pickle.loads = trap
for name in ("Unpickler", "_Unpickler"):
    setattr(pickle, name, type(name, (getattr(pickle, name),), {"__init__": trap}))
"""

FROM_DISK = """
from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.adapters.clock import SystemClock
from mobile_sentiment_ops.adapters.memory import MemoryRegistry
from mobile_sentiment_ops.app.model_files import open_bundle
from mobile_sentiment_ops.registry.pyfunc import _load_pyfunc
import pandas

folder = Path(sys.argv[1])
for path in sorted(folder.iterdir()):
    bundle = open_bundle(FolderBundles(folder), MemoryRegistry(SystemClock()), "1", path.name)
    bundle.model.predict(["great thing"])
    _load_pyfunc(str(path)).predict(pandas.DataFrame({"review_text": ["great thing"]}))
print(json.dumps(seen))
"""

FROM_MLFLOW = """
import mlflow, pandas
from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.adapters.registry_mlflow import MlflowRegistry
from mobile_sentiment_ops.app.model_files import open_bundle
from mobile_sentiment_ops.settings import Mlflow

folder, uri, name, bundle_hash = sys.argv[1:]
registry = MlflowRegistry(Mlflow(tracking_uri=uri, registered_model=name))
open_bundle(FolderBundles(Path(folder)), registry, "1", bundle_hash).model.predict(["great thing"])
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(f"models:/{name}/1")
answer = model.predict(pandas.DataFrame({"review_text": ["great thing"]}))
assert len(answer) == 1
print(json.dumps(seen))
"""


def test_no_pickle_and_no_code_is_read_from_a_bundle_of_any_kind(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    for kind in KINDS:
        FolderBundles(tmp_path).put(*packed(kind))
    out, _ = start_python(WATCHED + FROM_DISK, str(tmp_path)).communicate(timeout=200)
    assert json.loads(out) == []


@pytest.mark.integration
def test_no_pickle_and_no_code_is_read_from_the_registry(
    lr: tuple[Files, str],
    tmp_path: Path,
    mlflow_settings: Mlflow,
    training_run: Callable[..., TrainingRun],
    start_python: Callable[..., subprocess.Popen[str]],
) -> None:
    files, bundle_hash = lr
    MlflowRegistry(mlflow_settings).record(replace(training_run("lr"), bundle=files, bundle_hash=bundle_hash))
    where = (mlflow_settings.tracking_uri, mlflow_settings.registered_model, bundle_hash)
    out, _ = start_python(WATCHED + FROM_MLFLOW, str(tmp_path), *where).communicate(timeout=250)
    assert json.loads(out.splitlines()[-1]) == []
    assert sha256(read_folder(tmp_path / bundle_hash)[MANIFEST]).hexdigest() == bundle_hash
