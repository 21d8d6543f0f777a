"""The client: name resolution, proxies, TLS and the opening handshake.

Private: users import from :mod:`geventws`.
"""
