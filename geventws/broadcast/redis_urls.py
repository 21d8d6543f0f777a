"""URLs of Redis deployments, and the redis-py clients for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from ..typing import Keywords

_parse_options: Callable[[str], Keywords] = parse_url  # redis-py has no annotations for it

#: Seconds that Redis may take to answer, unless ``socket_timeout`` in the URL overrides it.
TIMEOUT = 5.0


class Deployment(NamedTuple):
    """The Redis deployment that a URL names: one server, a sentinel's service, or a cluster."""

    kind: str  #: "", "sentinel" or "cluster"
    url: str
    hosts: list[tuple[str, int]]  #: the sentinels, or nodes of the cluster
    service: str  #: the name of the sentinel's service
    options: Keywords  #: keyword arguments for redis-py

    # Any: redis-py annotates most commands as either a result or an awaitable.
    def create_client(self) -> Any:
        """Return a client. Only a cluster's client connects immediately."""
        # No retries: if the outcome of PUBLISH is unknown, a retry could publish a message twice.
        common = {
            "protocol": 2,
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        if not self.kind:
            return redis.Redis.from_url(self.url, **common)
        options = {**common, **self.options}
        if self.kind == "cluster":
            nodes = [
                redis.cluster.ClusterNode(*address)  # type: ignore[no-untyped-call]
                for address in self.hosts
            ]
            return redis.RedisCluster(startup_nodes=nodes, **options)
        sentinel_options = {
            name: value for name, value in options.items() if name.startswith(("ssl", "socket_"))
        }
        sentinel: Callable[..., Any] = redis.sentinel.Sentinel  # it has no annotations
        return sentinel(self.hosts, sentinel_kwargs=sentinel_options, **options).master_for(
            self.service
        )


def parse_redis_url(url: str) -> Deployment:
    """Return the deployment that a URL names.

    :raises ValueError: for an invalid URL.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        _parse_options(url)  # raises ValueError now instead of on the first command
        return Deployment("", url, [], "", {})
    userinfo, at, addresses = parts.netloc.rpartition("@")
    hosts = _parse_hosts(addresses, 26379 if kind == "sentinel" else 6379)
    service, _, db = unquote(parts.path).strip("/").partition("/")
    if (kind == "sentinel") != bool(service):
        raise ValueError(
            f"the URL of {parts.scheme}:// needs hosts, and a path only for the name of a"
            " sentinel's service"
        )
    query = f"?{parts.query}" if parts.query else ""
    options = _parse_options(f"{scheme}://{userinfo}{at}host/{db}{query}")
    for unwanted in ("host", "port", "connection_class"):
        options.pop(unwanted, None)
    if kind == "cluster":
        options.pop("db", None)
    if scheme == "rediss":
        options["ssl"] = True
    return Deployment(kind, url, hosts, service, options)


def _parse_hosts(addresses: str, default_port: int) -> list[tuple[str, int]]:
    """Return the hosts and ports of a list separated by commas."""
    hosts = []
    for address in addresses.split(","):
        parts = urlsplit(f"//{address}")
        if not parts.hostname:
            raise ValueError(f"{address or 'an empty string'} is not an address of Redis")
        hosts.append((parts.hostname, parts.port or default_port))
    return hosts
