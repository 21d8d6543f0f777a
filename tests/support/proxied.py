"""The tests' site as it is served behind a proxy: with pings, and without."""

from geventws import WebSocketMiddleware
from tests.support.apps import site

app = WebSocketMiddleware(site, ping_interval=0.3)
silent = WebSocketMiddleware(site, ping_interval=None)
