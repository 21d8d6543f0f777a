"""The sentences of ``geventws check``: what was observed, and what it means. No I/O."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from urllib.parse import urlsplit

from ..connection.logs import printable
from ..exceptions import HandshakeError
from ..options import how_to_allow
from ..protocol.client_handshake import Response
from ..protocol.redirects import Redirects, Request
from ..protocol.urls import Target

#: Seconds until the 101, and from a Ping to its Pong, that need an explanation.
_LATE_OPENING, _LATE_PONG = 2.0, 1.0
#: The maximum number of bytes of a body that is shown.
_MAX_BODY = 200
#: The lines of nginx that forward an upgrade.
_UPGRADE_LINES = (
    "'proxy_http_version 1.1;', 'proxy_set_header Upgrade $http_upgrade;' and 'proxy_set_header"
    ' Connection "upgrade";\''
)
_HOST_LINE = "'proxy_set_header Host $http_host;'"
#: By the number of OpenSSL (X509_V_ERR_...): why a certificate is not accepted, and the remedy.
_SELF_SIGNED = (
    "it is self-signed. Get one from a certificate authority, or accept this one:"
    " SSL_CERT_FILE=certificate.pem geventws check ..."
)
_UNKNOWN_ISSUER = (
    "its issuer is unknown. The server must also send the intermediate certificates (certbot:"
    " fullchain.pem). If the authority is your own, set SSL_CERT_FILE to its certificate"
)
_OTHER_NAME = (
    "it is for another name. Use a name of the certificate in the URL, or get a certificate for"
    " this name"
)
_CERTIFICATES = {
    10: "it has expired. Renew it, and reload the proxy",
    18: _SELF_SIGNED,
    19: _UNKNOWN_ISSUER,
    20: _UNKNOWN_ISSUER,
    21: _UNKNOWN_ISSUER,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
_STATUSES = {
    401: "the server wants a login. Add --cookie NAME=VALUE or --header 'Authorization: ...'",
    403: "the application or a proxy refuses the request, also without an Origin. Look into their"
    " logs",
    407: "the proxy wants a password. Add it: --proxy http://USER:PASSWORD@HOST:PORT",
    502: "the proxy cannot reach the server behind it. Start that server, or correct its address"
    " in the proxy (nginx: proxy_pass)",
    503: "the proxy has no server that works, or the server is stopping or full (max_connections)."
    " Start the server, or look into its log",
    504: "the server behind the proxy has not answered in time. Call ws.accept() first in the view,"
    " or increase the timeout of the proxy",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What was observed. An error is ``None`` if a WebSocket was opened."""

    target: Target
    #: The Origin header of the request, and the origin of the URL.
    origin: str
    own_origin: str
    #: ``HOST:PORT`` of the proxy that the client uses.
    proxy: str = ""
    #: The error of an upgrade with the headers of browsers, and of one without them.
    browser_error: OSError | None = None
    plain_error: OSError | None = None

    # If no WebSocket was opened:
    #: Whether the port accepts connections.
    is_reachable: bool = False
    #: Whether the port speaks TLS in spite of ws://, or HTTP without TLS in spite of wss://.
    is_other_scheme: bool = False
    #: Whether the header Upgrade reaches a WebSocket server.
    reads_upgrade: bool = False

    # If one was opened only without the headers of browsers:
    #: The header that is refused; empty if no header alone is refused.
    refused_header: str = ""
    #: An origin that is accepted instead.
    accepted_origin: str = ""

    # If one was opened:
    extensions: str = ""
    #: Whether the header Sec-WebSocket-Extensions reaches a WebSocket server.
    reads_extensions: bool = True
    seconds_to_open: float = 0.0
    #: ``None`` if no Pong has arrived.
    seconds_to_pong: float | None = None
    #: The value of ``--idle``, and the seconds of silence until the end.
    idle: float = 0.0
    silence: float = 0.0
    #: ``None`` if the connection was still open.
    close_code: int | None = None
    close_reason: str = ""


def diagnose(facts: Facts) -> list[str]:
    """Return an explanation of each problem."""
    if facts.browser_error is not None and facts.plain_error is not None:
        return [_explain_failure(facts, facts.browser_error)]
    found = (
        _explain_refusal_of_browsers(facts),
        _explain_refusal_of_programs(facts),
        _explain_compression(facts),
        _explain_delay(facts),
        _explain_end(facts),
    )
    return [explanation for explanation in found if explanation]


def summary(facts: Facts) -> str:
    """Describe a WebSocket without problems."""
    opened = f"open after {facts.seconds_to_open * 1000:.0f} ms"
    if facts.seconds_to_pong is not None:
        opened += f", Pong after {facts.seconds_to_pong * 1000:.1f} ms"
    sentences = [f"The WebSocket works: {opened}."]
    if not facts.extensions:
        sentences.append("The server does not compress messages (option compression).")
    if facts.close_code is not None:
        closed = f"{facts.close_code} {printable(facts.close_reason)}".rstrip()
        sentences.append(f"The server has closed it with {closed}.")
    elif facts.idle:
        sentences.append(f"It stayed open for {facts.idle:g} seconds.")
    else:
        sentences.append("To check that it stays open in silence, add --idle 70.")
    return " ".join(sentences)


# ---------------------------------------------------------------- no WebSocket was opened


def _explain_failure(facts: Facts, error: OSError) -> str:
    explanation = (
        _explain_response(facts, error)
        if isinstance(error, HandshakeError) and not facts.is_other_scheme
        else _explain_connection(facts, error)
    )
    if facts.proxy:
        explanation += f" The connection goes through the proxy {facts.proxy}."
    return explanation


def _explain_connection(facts: Facts, error: OSError) -> str:
    host, port = facts.target.host, facts.target.port
    reason = error.strerror or str(error)
    if isinstance(error, socket.gaierror):
        return f"The name {host} cannot be resolved ({reason}). Correct it, or add it to the DNS."
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _CERTIFICATES.get(error.verify_code, error.verify_message)
        return f"The certificate of {host} is not accepted: {why}."
    if facts.is_other_scheme and facts.target.secure:
        return f"Port {port} does not speak TLS. Use ws://, or give the server a certificate."
    if facts.is_other_scheme:
        return f"Port {port} speaks TLS. Use wss://."
    if isinstance(error, ssl.SSLError):
        return (
            f"The TLS handshake fails: {reason}. The server needs a certificate"
            f" for {host}, and TLS 1.2 or newer."
        )
    if isinstance(error, TimeoutError) and facts.is_reachable:
        return (
            "The server accepts the connection, but does not answer. Call ws.accept() first in the"
            " view. A proxy must not hold the response back."
        )
    if isinstance(error, TimeoutError):
        return f"{host} port {port} does not answer. Correct the address, or check the firewall."
    if isinstance(error, ConnectionRefusedError):
        return f"No server listens: {reason}. Start the server, or correct the address."
    return f"The connection fails: {reason}."


def _explain_response(facts: Facts, error: HandshakeError) -> str:
    body = printable(error.body[:_MAX_BODY].decode(errors="replace").strip())
    answer = printable(error.status)
    if body and not body.startswith("<"):
        answer += f" ({body})"
    if not error.status_code:
        return f"There is no HTTP response: {body}. Check that the port is the right one."
    if error.status_code == 101:
        return (
            f"A proxy changes the headers of the 101: {body}. It must forward Upgrade, Connection"
            " and Sec-WebSocket-Accept."
        )
    response = Response(error.status_code, error.status, error.headers)
    if redirect := _explain_redirect(facts.target, response):
        return redirect
    if error.status_code == 501 and not facts.reads_upgrade:
        return (
            f"The answer is {answer}: the server has no WebSockets. Serve the application with"
            " 'geventws MODULE:APP'."
        )
    path = facts.target.resource.partition("?")[0]
    if error.status_code == 404 and "<center>nginx" in body:
        return f"nginx has no location for {path} ({answer}). Add one with proxy_pass."
    other = facts.plain_error
    if (
        error.status_code == 403
        and isinstance(other, HandshakeError)
        and other.status_code not in {0, 403}
    ):
        return (
            f"The answer is {answer}, and without an Origin {_reason(other)}. Perhaps a proxy"
            f" changes the header Host: nginx needs the line {_HOST_LINE}. Look into the logs of"
            " the application and the proxy."
        )
    if error.status_code in _STATUSES:
        return f"The answer is {answer}: {_STATUSES[error.status_code]}."
    if facts.reads_upgrade and error.status_code >= 500:
        return f"The application fails: {answer}. Its log has the traceback."
    if facts.reads_upgrade:
        return (
            f"The application answers {answer}. Correct the path {path}, or look into the view:"
            " it does not use its WebSocket."
        )
    server = printable(response.get("Server")) or "the server"
    return (
        f"The answer of {server} is {answer}, as to a plain HTTP request. Either a proxy removes"
        " the headers Upgrade and Connection, or sends HTTP/1.0: nginx needs the lines"
        f" {_UPGRADE_LINES}. Or the server has no WebSockets, at {path} or at all: start it with"
        " 'geventws MODULE:APP'."
    )


def _explain_redirect(target: Target, response: Response) -> str:
    """Explain a redirect; return an empty string if it is not one."""
    redirects = Redirects(1)
    if not redirects.is_redirect(response):
        return ""
    try:
        found = redirects.follow(Request(target, []), response).target
    except HandshakeError as problem:
        return f"The server redirects: {printable(str(problem))}."
    url = f"{'wss' if found.secure else 'ws'}://{found.authority}{found.resource}"
    remedy = "Use this URL."
    if found.resource != target.resource:
        remedy = "Use this URL, or if it is a login page, add --cookie NAME=VALUE."
    return f"The server redirects to {url}. Browsers do not follow the redirect. {remedy}"


# ------------------------------------------------------------ only one of two was opened


def _explain_refusal_of_browsers(facts: Facts) -> str:
    if facts.browser_error is None:
        return ""
    reason = _reason(facts.browser_error)
    if facts.refused_header != "Origin":
        header = facts.refused_header or "the headers of browsers"
        return f"The server or a proxy refuses {header}: {reason}. Browsers cannot connect."
    refused = f"Pages of {facts.origin} are refused: {reason}."
    if facts.origin != facts.own_origin:
        remedy = how_to_allow(["self", facts.origin])
        return f"{refused} To let them in, {remedy}."
    if not facts.accepted_origin:
        return (
            f"{refused} Either the proxy changes the header Host: nginx needs the line"
            f" {_HOST_LINE}. Or the option allowed_origins lacks this origin. The log of the server"
            " shows both origins."
        )
    accepted, own = urlsplit(facts.accepted_origin), urlsplit(facts.own_origin)
    remedies = [f"The server takes {facts.accepted_origin} for its own origin."]
    if accepted.netloc != own.netloc:
        remedies.append(
            f"The proxy must forward the header Host with the port: nginx needs {_HOST_LINE}."
        )
    if accepted.scheme != own.scheme:
        remedies.append(
            f"The proxy must set X-Forwarded-Proto to {own.scheme} (nginx: 'proxy_set_header"
            " X-Forwarded-Proto $scheme;', HAProxy: 'http-request set-header X-Forwarded-Proto"
            f" {own.scheme}'), and the server must trust the proxy (--forwarded-allow-ips ADDRESS,"
            " or the option trusted_proxies)."
        )
    return " ".join([refused, *remedies])


def _explain_refusal_of_programs(facts: Facts) -> str:
    if facts.plain_error is None:
        return ""
    return (
        f"Requests without the headers of browsers are refused: {_reason(facts.plain_error)}."
        " Other clients must send an Origin and a User-Agent."
    )


def _reason(error: OSError) -> str:
    status = error.status if isinstance(error, HandshakeError) else ""
    return printable(status or str(error))


# ----------------------------------------------------------------- a WebSocket was opened


def _explain_compression(facts: Facts) -> str:
    if facts.extensions or facts.reads_extensions:
        return ""
    return (
        "Messages are not compressed: a proxy removes the header Sec-WebSocket-Extensions, or the"
        " server does not read it."
    )


def _explain_delay(facts: Facts) -> str:
    if facts.seconds_to_pong is None:
        return (
            ""
            if facts.close_code is not None
            else "The 101 arrives, but no Pong: a proxy buffers data. Disable its buffering, or let"
            " it forward WebSockets."
        )
    if facts.seconds_to_pong > _LATE_PONG:
        return (
            f"A Pong takes {facts.seconds_to_pong:.1f} seconds: a proxy buffers data, or the"
            " server is overloaded."
        )
    if facts.seconds_to_open > _LATE_OPENING:
        return (
            f"The 101 takes {facts.seconds_to_open:.1f} seconds. Call ws.accept() first in the"
            " view. A proxy must not hold the response back."
        )
    return ""


def _explain_end(facts: Facts) -> str:
    if facts.close_code == 1011:
        return "The server closes with 1011: the view fails. Its log has the traceback."
    if facts.close_code != 1006:
        return ""
    if facts.seconds_to_pong is None:
        return "The connection is lost after the 101. The proxy must forward WebSockets."
    return (
        f"The connection is lost after {facts.silence:.1f} seconds of silence. The timeout of the"
        " proxy (nginx: proxy_read_timeout, HAProxy: timeout tunnel) must be longer than the"
        " option ping_interval of the server, 20 seconds by default."
    )
