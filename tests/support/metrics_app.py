"""The tests' site with metrics of all processes at ``/metrics``."""
import os

from prometheus_client import CollectorRegistry, make_wsgi_app, multiprocess

import geventws.prometheus
from tests.support.apps import site

geventws.prometheus.install()


def app(environ, start_response):
    if environ["PATH_INFO"] != "/metrics":
        return site(environ, start_response)
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return make_wsgi_app()(environ, start_response)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return make_wsgi_app(registry)(environ, start_response)
