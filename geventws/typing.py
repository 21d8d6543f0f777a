"""Shared type aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TypeAlias

#: One message: text or binary.
Message: TypeAlias = "str | bytes"
#: The argument of ``send()``.
Data: TypeAlias = "str | bytes | bytearray | memoryview"
#: Names and values of HTTP headers.
Headers: TypeAlias = "list[tuple[str, str]]"
HeaderPairs: TypeAlias = "Iterable[tuple[str, str]]"
#: PEP 3333. Any: servers and middleware add values of their own types.
Environ: TypeAlias = "dict[str, Any]"
#: Keyword arguments and options by name. Any: the type of a value depends on its name.
Keywords: TypeAlias = "dict[str, Any]"
#: The result of ``sys.exc_info()``.
ExcInfo: TypeAlias = (
    "tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]"
)
#: PEP 3333's ``write(data)``.
Write: TypeAlias = "Callable[[bytes], object]"
#: PEP 3333's ``start_response(status, headers, exc_info=None)``; it returns ``write()``.
StartResponse: TypeAlias = "Callable[..., Write]"
#: A WSGI application.
Application: TypeAlias = "Callable[[Environ, StartResponse], Iterable[bytes]]"
