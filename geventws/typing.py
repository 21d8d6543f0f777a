"""Shared type aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

#: One message: text or binary.
Message: TypeAlias = "str | bytes"
#: What ``send()`` accepts.
Data: TypeAlias = "str | bytes | bytearray | memoryview"
#: Names and values of HTTP headers.
Headers: TypeAlias = "list[tuple[str, str]]"
HeaderPairs: TypeAlias = "Iterable[tuple[str, str]]"
#: PEP 3333. The values are of any type: servers and middleware add their own.
Environ: TypeAlias = "dict[str, Any]"
#: PEP 3333's ``start_response(status, headers, exc_info=None)``; returns ``write()``.
StartResponse: TypeAlias = "Callable[..., Callable[[bytes], object]]"
#: A WSGI application.
Application: TypeAlias = "Callable[[Environ, StartResponse], Iterable[bytes]]"
