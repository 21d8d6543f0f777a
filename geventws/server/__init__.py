"""WSGI: from the request for a WebSocket to the view, and the servers that both run under.

Private: users import from :mod:`geventws`.
"""
