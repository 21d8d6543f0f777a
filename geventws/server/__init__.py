"""WSGI: servers, adapters to other servers, and the exchange between a request and its view.

Private: users import from :mod:`geventws`.
"""
