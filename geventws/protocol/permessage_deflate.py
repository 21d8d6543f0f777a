"""The extension permessage-deflate, RFC 7692: what to offer, and what to agree on; no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from .compression import Compressor, ContextCompressor, ContextDecompressor, Decompressor
from .headers import Extension

NAME = "permessage-deflate"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """How messages are compressed, the ``compression`` option.

    By default each message is compressed by itself, and a connection keeps no memory for it. With
    *context takeover* messages refer to earlier ones: small similar messages shrink to a third
    of that, and each such direction of each connection keeps, in KiB, about
    ``2 ** (window_bits - 8) + 2 ** (memory_level - 1)`` for compressing and
    ``2 ** (window_bits - 10) + 7`` for inflating.
    """

    #: 1 (fast) to 9 (small).
    level: int = 1
    #: Of zlib, 1 to 9: how much memory a compressor uses for its search.
    memory_level: int = 8
    #: Messages of fewer bytes are sent as they are: they hardly shrink.
    min_size: int = 400
    #: Whether the server's messages may refer to earlier ones.
    server_context_takeover: bool = False
    #: Whether the client's messages may refer to earlier ones.
    client_context_takeover: bool = False
    #: How far back, as a power of two in bytes, the server's messages refer at most; 8 to 15.
    server_max_window_bits: int = 15
    #: How far back the client's messages refer at most, if the client can limit that.
    client_max_window_bits: int = 15

    def __post_init__(self) -> None:
        for name, least, most in (
            ("level", 1, 9),
            ("memory_level", 1, 9),
            ("min_size", 0, None),
            ("server_max_window_bits", 8, 15),
            ("client_max_window_bits", 8, 15),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least or (most and value > most):
                limits = f"from {least} to {most}" if most else f"of at least {least}"
                raise ValueError(f"{name} must be an integer {limits}, not {value!r}")


class Agreement(NamedTuple):
    """The four parameters of RFC 7692 section 7.1, as both sides obey them."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


class PerMessageDeflate:
    """The extension at work on one side of a connection, or of all that agreed on the same.

    :ivar min_size: of what is worth compressing, in bytes.
    :ivar is_shared: whether the connections that agreed on the same have this very object, so
        that what was compressed for one of them suits all.
    """

    __slots__ = ("compress", "compressor", "decompressor", "inflate", "is_shared", "min_size")

    def __init__(self, agreement: Agreement, parameters: Deflate, *, client: bool) -> None:
        self.min_size = parameters.min_size
        server = agreement.server_no_context_takeover, agreement.server_max_window_bits
        other = agreement.client_no_context_takeover, agreement.client_max_window_bits
        (single, window_bits), (peers_single, peers_window_bits) = (
            (other, server) if client else (server, other)
        )
        self.is_shared = single and peers_single
        self.compressor = (Compressor if single else ContextCompressor)(
            parameters.level, window_bits, parameters.memory_level
        )
        self.compress = self.compressor.compress
        self.decompressor = (
            Decompressor() if peers_single else ContextDecompressor(peers_window_bits)
        )
        self.inflate = self.decompressor.inflate

    @classmethod
    def of(
        cls, agreement: Agreement | None, parameters: Deflate | None, *, client: bool
    ) -> PerMessageDeflate | None:
        """The extension for a new connection; None if there is no agreement on it."""
        if agreement is None or parameters is None:
            return None
        if agreement.server_no_context_takeover and agreement.client_no_context_takeover:
            own = agreement.client_max_window_bits if client else agreement.server_max_window_bits
            return _shared(own, parameters, client)
        return cls(agreement, parameters, client=client)


@lru_cache(maxsize=128)
def _shared(window_bits: int, parameters: Deflate, client: bool) -> PerMessageDeflate:
    """The extension for all connections whose messages are compressed with the same window.

    Peers choose among eight windows, each of which costs 0.25 MiB. The window of the peer's own
    messages does not matter here: without a context they are inflated with the largest.
    """
    agreement = Agreement(True, True, window_bits, window_bits)
    return PerMessageDeflate(agreement, parameters, client=client)


# ------------------------------------------------------------------------------------ server


def accept_offer(
    offers: tuple[Extension, ...], parameters: Deflate
) -> tuple[str, Agreement] | None:
    """The server's answer, and what it means; None when there is no offer to accept.

    The first good one is accepted, RFC 7692 section 5: what is unknown or invalid is declined.
    """
    for offer in offers:
        if offer.name != NAME:
            continue
        try:
            offered = _parse(offer.parameters, is_offer=True)
        except ValueError:
            continue
        agreement = Agreement(
            # Section 7.1.1.1: whoever asks for it must find it in the answer.
            "server_no_context_takeover" in offered or not parameters.server_context_takeover,
            "client_no_context_takeover" in offered or not parameters.client_context_takeover,
            min(parameters.server_max_window_bits, offered.get("server_max_window_bits") or 15),
            # Section 7.1.2.2: only if the client says that it can.
            min(parameters.client_max_window_bits, offered["client_max_window_bits"] or 15)
            if "client_max_window_bits" in offered
            else 15,
        )
        return _format(agreement, "server_max_window_bits" in offered), agreement
    return None


# ------------------------------------------------------------------------------------ client


def offer(parameters: Deflate) -> str:
    """The client's offer, RFC 7692 section 5."""
    wanted = Agreement(
        not parameters.server_context_takeover,
        not parameters.client_context_takeover,
        parameters.server_max_window_bits,
        parameters.client_max_window_bits,
    )
    limit = "" if parameters.client_max_window_bits < 15 else "; client_max_window_bits"
    return _format(wanted) + limit


def accept_answer(answers: Iterable[Extension], parameters: Deflate) -> Agreement | None:
    """What the server's answer to :func:`offer` means; None when it declined.

    :raises ValueError: for an answer that fails the connection (RFC 7692 section 5.1): something
        that was not offered, twice, or beyond what was offered.
    """
    answers = list(answers)
    if not answers:
        return None
    if len(answers) > 1 or answers[0].name != NAME:
        raise ValueError("the server agrees to an extension that was not offered")
    answer = _parse(answers[0].parameters, is_offer=False)
    for name in ("server_max_window_bits", "client_max_window_bits"):
        if (answer.get(name) or 0) > getattr(parameters, name):
            raise ValueError(f"the server wants more {name} than were offered")
    return Agreement(
        "server_no_context_takeover" in answer,
        # What was offered, the client keeps to in any case.
        "client_no_context_takeover" in answer or not parameters.client_context_takeover,
        answer.get("server_max_window_bits") or 15,
        answer.get("client_max_window_bits") or parameters.client_max_window_bits,
    )


# ---------------------------------------------------------------------------------- grammar


def _parse(
    parameters: Iterable[tuple[str, str | None]], *, is_offer: bool
) -> dict[str, int | None]:
    """The parameters by name, RFC 7692 section 7.1.

    :raises ValueError: for one that is unknown, twice there, or has a wrong value.
    """
    found: dict[str, int | None] = {}
    for name, value in parameters:
        if name in found:
            raise ValueError(f"{name} is there twice")
        if name in {"server_no_context_takeover", "client_no_context_takeover"}:
            if value is not None:
                raise ValueError(f"{name} has a value")
            found[name] = None
        elif name in {"server_max_window_bits", "client_max_window_bits"}:
            if value is None and name == "client_max_window_bits" and is_offer:
                found[name] = None
            elif value in _WINDOW_BITS:
                found[name] = _WINDOW_BITS[value]
            else:
                raise ValueError(f"{name} is {value}, not a number from 8 to 15")
        else:
            raise ValueError(f"{name} is unknown")
    return found


#: "a decimal integer value without leading zeroes between 8 to 15 inclusive"
_WINDOW_BITS: dict[str | None, int] = {str(bits): bits for bits in range(8, 16)}


def _format(agreement: Agreement, server_bits_asked: bool = False) -> str:
    parts = [NAME]
    if agreement.server_no_context_takeover:
        parts.append("server_no_context_takeover")
    if agreement.client_no_context_takeover:
        parts.append("client_no_context_takeover")
    if agreement.server_max_window_bits < 15 or server_bits_asked:
        parts.append(f"server_max_window_bits={agreement.server_max_window_bits}")
    if agreement.client_max_window_bits < 15:
        parts.append(f"client_max_window_bits={agreement.client_max_window_bits}")
    return "; ".join(parts)
