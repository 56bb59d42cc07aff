"""A model's files by hash: from the local disk, else from the registry, checked either way."""

from __future__ import annotations

import structlog

from mobile_sentiment_ops.errors import BundleError, MsoError, NotFound, StoreError
from mobile_sentiment_ops.ports import Bundles, Registry
from mobile_sentiment_ops.registry.bundle import Bundle, unpack_bundle

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
