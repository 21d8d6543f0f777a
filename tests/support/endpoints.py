"""Endpoints after the opening handshake."""

from geventws.protocol.endpoint import Endpoint


def opened(client=False, max_message_size=1 << 20, extension=None, kind=Endpoint):
    """One side of an open connection."""
    endpoint = kind(client)
    endpoint.open(max_message_size, extension)
    return endpoint
