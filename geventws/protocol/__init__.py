"""RFC 6455 and RFC 7692 without I/O: imports neither gevent nor sockets.

Private: users import from :mod:`geventws`.
"""
