"""TLS on gevent sockets with any context, also in a program that gevent has not patched."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original
from gevent.ssl import SSLContext, SSLSocket

if TYPE_CHECKING:
    from gevent.socket import socket

#: A plain ``type``: types-gevent takes both classes for the same.
_GeventContext: type = SSLContext


def _standard_context() -> type[ssl.SSLContext]:
    """Return the class of the standard library. In a patched program, ``ssl`` has gevent's.

    A module must not have it as an attribute: ``gevent.monkey.patch_all()`` would warn about that.
    """
    context: type[ssl.SSLContext] = get_original("ssl", "SSLContext")
    return context


class _CooperativeContext:
    """A context of the standard library whose sockets are gevent's.

    Its own ``wrap_socket()`` would return a socket that blocks all greenlets of the thread. The
    settings and certificates remain those of the context: gevent's class only adds the sockets.
    """

    sslsocket_class = SSLSocket
    wrap_socket = SSLContext.wrap_socket

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    # Any: _ssl has no public types.
    def _wrap_socket(self, sock: Any, server_side: bool, name: str | None, **others: Any) -> Any:
        """Called by gevent's SSLSocket: create OpenSSL's object for a connection.

        The owner is the argument of ``sni_callback``, which may set ``sock.context``. gevent gives
        its inner socket, and translates it in the callbacks of its own contexts only.
        """
        others["owner"] = sock._sslsock()
        # This private method is the interface between SSLSocket and its context, in Python, too.
        return self._context._wrap_socket(sock, server_side, name, **others)  # type: ignore[attr-defined]

    # Any: the attributes of ssl.SSLContext.
    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


# Any: types-gevent has no common type for both.
def cooperative_context(context: object, *, server_side: bool) -> Any:
    """Return a context whose ``wrap_socket()`` returns gevent sockets.

    :raises TypeError: if it is not an ``ssl.SSLContext``, or a subclass with its own sockets.
    :raises ValueError: if it is for the other side of a connection.
    """
    if not isinstance(context, _standard_context()):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(context).__name__}")
    if server_side and context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            "ssl_context is for clients. A server needs"
            " ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) and a load_cert_chain()"
        )
    if not server_side and context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl_context is for servers. A client needs ssl.create_default_context()")
    if isinstance(context, _GeventContext):
        return context
    if type(context).wrap_socket is not _standard_context().wrap_socket:
        # Such as truststore's, which verifies certificates there. Its settings alone might accept
        # every certificate.
        raise TypeError(
            f"ssl_context: {type(context).__module__}.{type(context).__qualname__} has its own"
            " wrap_socket(), which would block all greenlets. Use an ssl.SSLContext, or call"
            " gevent.monkey.patch_all() at the beginning of the program, before the imports"
        )
    return _CooperativeContext(context)


def start_tls(sock: socket, context: ssl.SSLContext, server_hostname: str) -> socket:
    """Perform the TLS handshake of a client; return the encrypted socket. Blocks.

    :param context: the result of :func:`cooperative_context`.
    :raises OSError: if the handshake fails, or the certificate is not valid. The connection is
        closed.
    """
    # As in the name of the certificate: without the dot that ends a fully qualified name.
    name = server_hostname.removesuffix(".")
    secure = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    try:
        secure.do_handshake()
    except BaseException:
        secure.close()  # wrap_socket() has moved the descriptor to the new socket
        raise
    return secure


def default_context() -> SSLContext:
    """Return gevent's equivalent of ``ssl.create_default_context()``: it verifies certificates."""
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context
