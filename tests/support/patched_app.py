"""The tests' site in a module that patches the program, whatever worker runs it."""

from gevent import monkey

monkey.patch_all()

from geventws import WebSocketMiddleware  # noqa: E402
from tests.support.apps import site  # noqa: E402

application = WebSocketMiddleware(site)
