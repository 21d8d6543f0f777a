"""One WebSocket on a gevent hub: transport, bounds, deadlines and the end of a connection.

Private: users import from :mod:`geventws`.
"""
