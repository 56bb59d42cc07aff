"""The parts in C, when there is a compiler; without one the package is built all the same, and is slow."""

import platform
from pathlib import Path

from setuptools import Extension, setup

FILES = sorted(Path("src/mobile_sentiment_ops/models").glob("_*.c"))
MORE = ["-mpopcnt"] if platform.machine() in ("x86_64", "AMD64") else []  # a tenth of what scoring costs
EXTENSIONS = [
    Extension(
        ".".join(file.with_suffix("").parts[1:]),
        [str(file)],
        depends=[str(other) for other in FILES],  # one includes another
        extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wextra", *MORE],
        py_limited_api=True,
        optional=True,
    )
    for file in FILES
]

setup(ext_modules=EXTENSIONS, options={"bdist_wheel": {"py_limited_api": "cp311"}})
