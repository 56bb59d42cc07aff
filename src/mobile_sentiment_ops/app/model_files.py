"""A model's files by hash: from the local disk, else from the registry, checked either way."""

from __future__ import annotations

from mobile_sentiment_ops.errors import BundleError, NotFound
from mobile_sentiment_ops.ports import Bundles, Registry
from mobile_sentiment_ops.registry.bundle import Bundle, unpack_bundle


def open_bundle(bundles: Bundles, registry: Registry, version: str, bundle_hash: str) -> Bundle:
    """The bundle of a version. A copy that the registry gave is kept on the local disk.

    Raises BundleError when the registry's files are not the ones that were registered.
    """
    try:
        return unpack_bundle(bundles.get(bundle_hash), bundle_hash=bundle_hash)
    except (NotFound, BundleError) as local:
        files = registry.download(version)
        try:
            bundle = unpack_bundle(files, bundle_hash=bundle_hash)
        except BundleError as err:
            raise BundleError(f"model version {version}: {err} (and on the local disk: {local})") from err
        bundles.put(files, bundle_hash)
        return bundle
