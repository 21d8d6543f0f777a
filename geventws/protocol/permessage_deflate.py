"""Negotiation of permessage-deflate, RFC 7692, and the extension of a connection; no I/O."""

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
    """Parameters of compression: a value of the ``compression`` option.

    By default each message is compressed independently, and an idle connection keeps no memory for
    compression. With *context takeover*, messages refer to earlier messages. Small similar messages
    are then three times smaller. Memory for each direction of each connection, in KiB: about
    ``2 ** (window_bits - 8) + 2 ** (memory_level - 1)`` to compress, and
    ``2 ** (window_bits - 10) + 7`` to decompress.
    """

    #: From 1 (fast) to 9 (small).
    level: int = 1
    #: zlib's ``memLevel``, from 1 to 9: memory for the search of a compressor.
    memory_level: int = 8
    #: Messages with fewer bytes are not compressed.
    min_size: int = 400
    #: Whether messages of the server may refer to earlier messages.
    server_context_takeover: bool = False
    #: Whether messages of the client may refer to earlier messages.
    client_context_takeover: bool = False
    #: The window of the server's messages in bytes, as a power of two; from 8 to 15.
    server_max_window_bits: int = 15
    #: The window of the client's messages, if the client supports a limit.
    client_max_window_bits: int = 15
    #: Caches look the parameters up for each connection.
    _hash: int = dataclasses.field(init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        return self._hash

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
        values = (getattr(self, name) for name in self.__slots__ if name != "_hash")
        object.__setattr__(self, "_hash", hash(tuple(values)))


class Agreement(NamedTuple):
    """The four parameters of RFC 7692 section 7.1, as agreed."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


class PerMessageDeflate:
    """The extension on one side of a connection, or of all connections with the same agreement.

    :ivar min_size: the smallest message that is compressed, in bytes.
    :ivar is_shared: whether all connections with the same agreement share this object, so that a
        message is compressed once for all of them.
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
        """The extension of a new connection; ``None`` without an agreement."""
        if agreement is None or parameters is None:
            return None
        if agreement.server_no_context_takeover and agreement.client_no_context_takeover:
            own = agreement.client_max_window_bits if client else agreement.server_max_window_bits
            return _shared(own, parameters, client)
        return cls(agreement, parameters, client=client)


@lru_cache(maxsize=128)
def _shared(window_bits: int, parameters: Deflate, client: bool) -> PerMessageDeflate:
    """The extension of all connections whose messages are compressed with the same window.

    Peers choose among eight windows; each takes 0.3 MiB. The window of the peer's messages does
    not matter: without a context they are decompressed with the largest window.
    """
    agreement = Agreement(True, True, window_bits, window_bits)
    return PerMessageDeflate(agreement, parameters, client=client)


# ------------------------------------------------------------------------------------ server


def accept_offer(
    offers: tuple[Extension, ...], parameters: Deflate
) -> tuple[str, Agreement] | None:
    """The server's answer and the agreement; ``None`` if no offer can be accepted.

    The first valid offer is accepted. Unknown and invalid offers are declined (RFC 7692 section 5).
    """
    for offer in offers:
        if offer.name != NAME:
            continue
        try:
            offered = _parse(offer.parameters, is_offer=True)
        except ValueError:
            continue
        agreement = Agreement(
            # Section 7.1.1.1: if the client asks for it, the answer must contain it.
            "server_no_context_takeover" in offered or not parameters.server_context_takeover,
            "client_no_context_takeover" in offered or not parameters.client_context_takeover,
            min(parameters.server_max_window_bits, offered.get("server_max_window_bits") or 15),
            # Section 7.1.2.2: only if the client supports it.
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
    """The agreement in the server's answer to :func:`offer`; ``None`` if the server declined.

    :raises ValueError: for an answer that fails the connection (RFC 7692 section 5.1): an extension
        or a parameter that was not offered, is repeated, or exceeds the offer.
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
        # The client keeps to its offer in any case.
        "client_no_context_takeover" in answer or not parameters.client_context_takeover,
        answer.get("server_max_window_bits") or 15,
        answer.get("client_max_window_bits") or parameters.client_max_window_bits,
    )


# ---------------------------------------------------------------------------------- grammar


def _parse(
    parameters: Iterable[tuple[str, str | None]], *, is_offer: bool
) -> dict[str, int | None]:
    """The parameters by name, RFC 7692 section 7.1.

    :raises ValueError: for a parameter that is unknown, repeated, or has an invalid value.
    """
    found: dict[str, int | None] = {}
    for name, value in parameters:
        if name in found:
            raise ValueError(f"{name} is repeated")
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
