"""Select the transport: the compiled twin together with the compiled frame reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.reader import CORE
from .transport_py import (
    SLICE,
    WOULD_BLOCK,
    Counters,
    HubBuffers,
    SharedMessage,
    Transport,
    Workers,
    bytes_of,
    fan_out,
    seconds_of,
)

__all__ = [
    "SLICE",
    "WOULD_BLOCK",
    "Counters",
    "HubBuffers",
    "SharedMessage",
    "Transport",
    "Workers",
    "bytes_of",
    "fan_out",
    "seconds_of",
]

if not TYPE_CHECKING and CORE == "compiled":
    from ._transport import Counters, HubBuffers, SharedMessage, Transport, Workers, fan_out
