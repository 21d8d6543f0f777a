"""Builds the compiled twins, and README.md for PyPI; all other metadata is in setup.cfg.

Without a C compiler the package is installed with its Python twins only, unless
GEVENTWS_REQUIRE_EXTENSION=1 is set.
"""

import os
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REQUIRED = os.environ.get("GEVENTWS_REQUIRE_EXTENSION") == "1"
FLAGS = [] if sys.platform == "win32" else ["-O3", "-Wno-unused-function"]
PROTOCOL = "geventws/protocol"
CONNECTION = "geventws/connection"
IMAGES = (".png", ".svg", ".webp")
CODE_OR_LINK = re.compile(
    r'^```.*?^```|(\]\(|(?:src|srcset|href)=")(?!https?:)([^)"\s]+)', re.MULTILINE | re.DOTALL
)


class OptionalBuild(build_ext):
    """Reports a missing compiler in one line, instead of failing."""

    def run(self):
        try:
            import greenlet  # noqa: PLC0415 - for its header; the Python twins do not need it

            self.include_dirs.append(str(Path(greenlet.__file__).parent.parent))
            super().run()
        except Exception as problem:
            if REQUIRED:
                raise
            # The compiled twins work only together.
            for output in self.get_outputs():
                Path(output).unlink(missing_ok=True)
            print(f"geventws: installed without its compiled core: {problem}", file=sys.stderr)


def extension(name, *headers):
    """A compiled twin: its module, and the headers that it depends on."""
    return Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        depends=[
            *headers,
            f"{PROTOCOL}/_frames.pxd",
            f"{PROTOCOL}/_reader.pxd",
            f"{CONNECTION}/_epoll.pxd",
        ],
        include_dirs=[PROTOCOL, CONNECTION],
        extra_compile_args=FLAGS,
    )


LINUX_ONLY = [extension("geventws.connection._arrivals", f"{CONNECTION}/system.h")]


def readme():
    """Return README.md with absolute links, to the repository at the tag of this version."""
    config = ConfigParser()
    config.read("setup.cfg")
    url = config["metadata"]["url"]
    version = re.search(r'__version__ = "(.+)"', read("geventws/__init__.py"))[1]

    def absolute(link):
        if not link[1]:  # code
            return link[0]
        # The headings have other anchors on PyPI: link to those of the repository's page.
        path = link[2] if not link[2].startswith("#") else f"README.md{link[2]}"
        kind = "raw" if path.endswith(IMAGES) else "blob"
        return f"{link[1]}{url}/{kind}/v{version}/{path}"

    return CODE_OR_LINK.sub(absolute, read("README.md"))


def read(name):
    return Path(name).read_text(encoding="utf-8")


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    cmdclass={"build_ext": OptionalBuild},
    ext_modules=[
        extension("geventws.protocol._reader", f"{PROTOCOL}/frames.h"),
        extension("geventws.protocol._handshake"),
        extension("geventws.connection._malloc", f"{CONNECTION}/frame_stacks.h"),
        extension("geventws.connection._epoll", f"{CONNECTION}/system.h"),
        extension("geventws.server._fast_path"),
        extension(
            "geventws.connection._transport", f"{PROTOCOL}/frames.h", f"{CONNECTION}/system.h"
        ),
        *(LINUX_ONLY if sys.platform == "linux" else []),
    ],
)
