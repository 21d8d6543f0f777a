"""Builds the compiled core; everything else is in setup.cfg.

Without a C compiler the package installs all the same and runs its plain Python core, unless
GEVENTWS_REQUIRE_EXTENSION=1 says that this is a failure.
"""
import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REQUIRED = os.environ.get("GEVENTWS_REQUIRE_EXTENSION") == "1"
FLAGS = [] if sys.platform == "win32" else ["-O3", "-Wno-unused-function"]


class OptionalBuild(build_ext):
    """Says in one line what a missing compiler means, instead of failing."""

    def run(self):
        try:
            import greenlet  # noqa: PLC0415 - for its header; without it there is the plain core

            self.include_dirs.append(str(Path(greenlet.__file__).parent.parent))
            super().run()
        except Exception as problem:
            if REQUIRED:
                raise
            # Whatever it is, the plain core works.
            print(f"geventws: installed without its compiled core: {problem}", file=sys.stderr)


setup(
    cmdclass={"build_ext": OptionalBuild},
    ext_modules=[
        Extension(
            "geventws._core._speedups",
            ["geventws/_core/_speedups.pyx"],
            depends=["geventws/_core/speedups.h"],
            include_dirs=["geventws/_core"],
            extra_compile_args=FLAGS,
        )
    ],
)
