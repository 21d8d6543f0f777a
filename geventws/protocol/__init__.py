"""RFC 6455 and RFC 7692 without I/O: imports neither gevent nor sockets.

May import :mod:`geventws.exceptions` and :mod:`geventws.typing` only.

Private: users import from :mod:`geventws`.
"""
