"""Settings for `gunicorn -c gunicorn.conf.py app:app`. The command line takes precedence."""

import os

worker_class = "geventws.Worker"
# One for each core is a good beginning: $WEB_CONCURRENCY says how many.
worker_connections = 10_000  # how many connections a worker has at most, HTTP and WebSockets
backlog = 4096  # how many new connections may wait for a worker: after a restart, all come at once
graceful_timeout = 30  # how long the WebSockets may take to close when a worker ends
accesslog = "-"
# Whose X-Forwarded-Proto is believed. A proxy on another machine: its address.
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")


def child_exit(server, worker):
    """A worker that was killed is not open any more; only if there are metrics of Prometheus."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)
