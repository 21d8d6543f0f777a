"""The tests' site with metrics of all processes at ``/metrics``."""

import geventws.prometheus
from tests.support.apps import site

geventws.prometheus.install()
metrics = geventws.prometheus.make_wsgi_app()


def app(environ, start_response):
    return (metrics if environ["PATH_INFO"] == "/metrics" else site)(environ, start_response)
