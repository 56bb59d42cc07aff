"""How surely a bundle whose bytes were changed is refused."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping

from bench.results import Row, goal_row
from mobile_sentiment_ops.adapters.memory import MemoryRegistry
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.registry.bundle import unpack_bundle
from mobile_sentiment_ops.settings import Demo, resolve_settings

FLIPS = 1_000
SEED = 11


def flip_rows(flips: int = FLIPS) -> list[Row]:
    """The share of bundles with one flipped bit, anywhere in any of their files, that were refused."""
    files, bundle_hash = _bundle()
    chance = random.Random(SEED)  # noqa: S311 - which bits is no secret
    found = sum(refused(flipped(files, chance), bundle_hash) for _ in range(flips))
    size = sum(map(len, files.values()))
    note = f"{found} of {flips:,} bundles of {len(files)} files and {size / 2**20:.1f} MB, each with one bit flipped"
    return [goal_row("gate", "bit_flips_refused", found / flips, n=flips, note=note)]


def flipped(files: Mapping[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """The files with one bit turned: half of the time any of all bits, else any of a file drawn first, as small
    files would hardly be hit."""
    sizes = {name: len(content) for name, content in files.items() if content}
    names = list(sizes)
    weights = list(sizes.values()) if chance.random() < 0.5 else None
    name = chance.choices(names, weights)[0]
    content = bytearray(files[name])
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return {**files, name: bytes(content)}


def refused(files: Mapping[str, bytes], bundle_hash: str) -> bool:
    """Whether these files are not taken for the bundle of that hash."""
    try:
        unpack_bundle(files, bundle_hash=bundle_hash)
    except BundleError:
        return True
    return False


def _bundle() -> tuple[Mapping[str, bytes], str]:
    """What a first training on the demo world packs."""
    with tempfile.TemporaryDirectory() as workspace:
        flags = {"storage.workspace": workspace, "training.kinds": ["lr"]}
        platform = Platform(resolve_settings(environment={}, flags=flags).settings)
        registry = MemoryRegistry(platform.clock)
        vars(platform)["registry"] = registry
        platform.data.ingest_frames("demo world", [generate(Demo(reviews=4_000)).reviews])
        platform.models.train_startup_model()
        return registry.runs[-1].bundle, registry.runs[-1].bundle_hash
