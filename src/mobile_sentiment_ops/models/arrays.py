"""Arrays as files of a model: .npy without pickle, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import BundleError


def write_array(array: npt.NDArray[Any]) -> bytes:
    """The array as the content of a .npy file."""
    file = BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def read_array(
    files: Mapping[str, bytes], name: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """The array of file `name`; None in `shape` stands for any length.

    Raises BundleError when the file is missing, holds something else or a number that is none.

    >>> read_array({"w.npy": write_array(np.ones((2, 3)))}, "w.npy", np.float64, (None, 3)).shape
    (2, 3)
    """
    if name not in files:
        raise BundleError(f"the model has no file {name}")
    try:
        array: npt.NDArray[Any] = np.load(BytesIO(files[name]), allow_pickle=False)
    except (ValueError, EOFError, OSError) as err:
        raise BundleError(f"{name} is no array: {err}") from err
    wanted = tuple(got if want is None else want for want, got in zip(shape, array.shape, strict=False))
    if array.shape != wanted or len(shape) != array.ndim or array.dtype != dtype:
        raise BundleError(f"{name} is {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of {shape}")
    if not np.isfinite(array).all():
        raise BundleError(f"{name} holds numbers that are not finite")
    return array
