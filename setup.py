"""The kernel in C, when there is a compiler; without one the package is built all the same and is slow."""

from setuptools import Extension, setup

KERNEL = Extension(
    "mobile_sentiment_ops.models._kernel",
    ["src/mobile_sentiment_ops/models/_kernel.c"],
    extra_compile_args=["-O3", "-std=c11", "-Wall", "-Wextra"],
    py_limited_api=True,
    optional=True,
)

setup(ext_modules=[KERNEL], options={"bdist_wheel": {"py_limited_api": "cp311"}})
