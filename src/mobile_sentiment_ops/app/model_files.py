"""A model's files by hash: from the local disk, else from the registry, checked either way."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from mobile_sentiment_ops.errors import BundleError, MsoError, NoModel, NotFound, StoreError
from mobile_sentiment_ops.models.compiled import CompiledModel, check_compiled, compile_model
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.ports import Bundles, Registry, State
from mobile_sentiment_ops.registry.bundle import Bundle, unpack_bundle
from mobile_sentiment_ops.registry.checks import PROBES, check_model

log = structlog.get_logger()


def open_bundle(bundles: Bundles, registry: Registry, version: str, bundle_hash: str) -> Bundle:
    """The bundle of a version. A copy that the registry gave is kept on the local disk.

    Raises BundleError when the registry's files are not the ones that were registered, NotFound when
    it does not have them, Unavailable when it is away.
    """
    try:
        return unpack_bundle(bundles.get(bundle_hash), bundle_hash=bundle_hash)
    except (NotFound, BundleError, StoreError) as local:
        try:
            files = registry.download(version)
            bundle = unpack_bundle(files, bundle_hash=bundle_hash)
        except MsoError as err:
            raise type(err)(f"model version {version}: {err} (on the local disk: {local})") from err
    try:
        bundles.put(files, bundle_hash)
    except StoreError as err:
        log.warning("no local copy of a model", version=version, error=str(err))
    return bundle


def open_version(name: str, state: State, bundles: Bundles, registry: Registry) -> tuple[str, Bundle]:
    """The number and the bundle of the model `champion`, or of a registered version by its number.

    Raises NoModel when there is no champion, NotFound for an unknown version, and what open_bundle raises.
    """
    if name == "champion":
        if (champion := state.champion()) is None:
            raise NoModel("no model is promoted here; `make up` or `mso retrain` makes the first one")
        return champion.version, open_bundle(bundles, registry, champion.version, champion.bundle_hash)
    known = {version.version: version for version in registry.versions()}
    if name not in known:
        raise NotFound(f"there is no model version {name!r}; use 'champion' or one of {', '.join(known) or '(none)'}")
    return name, open_bundle(bundles, registry, name, known[name].bundle_hash)


def compiled_form(model: SentimentModel, bundle_hash: str, texts: Sequence[str] = ()) -> bytes:
    """The form in which servers map a model; ModelError when the model is not sound, or answers otherwise in
    that form to one of these texts or of the usual probes."""
    check_model(model)
    compiled = compile_model(model, bundle_hash)
    check_compiled(CompiledModel.of(compiled), model, [*PROBES, *texts])
    return compiled
