"""setuptools, with a C compiler from PyPI where the machine has none.

`ziglang` holds a whole compiler (about 80 MB), so it is asked for only then. MSO_WITHOUT_C=1 asks for none: the package
is then built without its parts in C, and is slow.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - what is not below stays as it is


def compiler() -> str | None:
    """The command of a compiler on this machine, best the one that Python was built with."""
    built_with = os.environ.get("CC") or sysconfig.get_config_var("CC") or ""
    names = (command for command in (built_with, "cc", "gcc", "clang") if command)
    return next((command for command in names if shutil.which(shlex.split(command)[0])), None)


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    more = [] if os.environ.get("MSO_WITHOUT_C") or sys.platform == "win32" or compiler() else ["ziglang"]
    return [*build_meta.get_requires_for_build_wheel(config_settings), *more]


get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(*arguments: Any, **more: Any) -> str:
    _choose_compiler()
    return str(build_meta.build_wheel(*arguments, **more))


def build_editable(*arguments: Any, **more: Any) -> str:
    _choose_compiler()
    return str(build_meta.build_editable(*arguments, **more))


def _choose_compiler() -> None:
    found = compiler() or (f"{sys.executable} -m ziglang cc" if find_spec("ziglang") else None)
    if found and sys.platform != "win32":
        os.environ["CC"] = found
