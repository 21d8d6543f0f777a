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


#: The default of ``max_connections``: how many commands of a process may run at the same time.
_MAX_CONNECTIONS = 100


class Deployment(NamedTuple):
    """A Redis deployment: one server, a sentinel's service, or a cluster."""

    kind: str  #: "", "sentinel" or "cluster"
    url: str
    hosts: list[tuple[str, int]]  #: the sentinels, or nodes of the cluster
    service: str  #: the name of the sentinel's service
    options: Keywords  #: keyword arguments for redis-py
    sentinel_options: Keywords  #: keyword arguments for redis-py's connections to the sentinels

    @property
    def is_cluster(self) -> bool:
        return self.kind == "cluster"

    @property
    def max_connections(self) -> int:
        """The number of connections for commands."""
        return int(self.options.get("max_connections", _MAX_CONNECTIONS))

    # Any: redis-py annotates most commands as either a result or an awaitable.
    def create_client(self) -> Any:
        """Return a client. Only a cluster's client connects immediately."""
        options = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "max_connections": _MAX_CONNECTIONS,
            **self.options,
            "protocol": 2,
            "decode_responses": False,
            # If the outcome of PUBLISH is unknown, a retry could publish a message twice.
            "retry": Retry(NoBackoff(), 0),
        }
        if not self.kind:
            return redis.Redis.from_pool(redis.ConnectionPool(**options))
        if self.is_cluster:
            nodes = [
                redis.cluster.ClusterNode(*address)  # type: ignore[no-untyped-call]
                for address in self.hosts
            ]
            return redis.RedisCluster(startup_nodes=nodes, **options)
        sentinel_options = {
            **{name: it for name, it in options.items() if name.startswith(("ssl", "socket_"))},
            **self.sentinel_options,
        }
        sentinel: Callable[..., Any] = redis.sentinel.Sentinel  # it has no annotations
        return sentinel(self.hosts, sentinel_kwargs=sentinel_options, **options).master_for(
            self.service
        )


# Any: a URL, or a client of redis-py.
def parse_redis_url(url: Any) -> Deployment:
    """Return the deployment that a URL names, or that a client of redis-py uses.

    :raises TypeError: if it is neither.
    :raises ValueError: for an invalid URL.
    """
    if not isinstance(url, str):
        return _deployment_of(url)
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        options = _parse_options(url)
        _check_options(options, options.get("connection_class", redis.Connection))
        return Deployment("", url, [], "", options, {})
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
    connection_class = options.pop("connection_class", redis.Connection)
    sentinel_options = {}
    if kind == "sentinel":
        for name in ("username", "password"):
            if f"sentinel_{name}" in options:
                sentinel_options[name] = options.pop(f"sentinel_{name}")
    _check_options(options, connection_class)
    for unwanted in ("host", "port"):
        options.pop(unwanted, None)
    if kind == "cluster":
        options.pop("db", None)
    if scheme == "rediss":
        options["ssl"] = True
    return Deployment(kind, url, hosts, service, options, sentinel_options)


def _check_options(options: Keywords, connection_class: Callable[..., object]) -> None:
    """Check now, instead of with the first command, that a connection accepts the options.

    :raises ValueError: if it does not.
    """
    rest = {
        name: it
        for name, it in options.items()
        if name not in {"connection_class", "max_connections", "timeout"}
    }
    try:
        connection_class(**rest)
    except (TypeError, redis.RedisError) as problem:
        text = str(problem).partition("argument ")[2] or str(problem)
        raise ValueError(f"redis-py does not know this parameter of the URL: {text}") from problem


def _deployment_of(client: Any) -> Deployment:
    """Return the deployment that a client of the application uses."""
    if isinstance(client, redis.RedisCluster):
        manager = client.nodes_manager
        nodes = list(manager.startup_nodes.values())
        options = _without_state(manager.connection_kwargs)
        for unwanted in ("host", "port", "connection_pool", "response_callbacks", "cache"):
            options.pop(unwanted, None)
        hosts = [(node.host, node.port) for node in nodes]
        url = f"redis+cluster://{','.join(f'{host}:{port}' for host, port in hosts)}"
        return Deployment("cluster", url, hosts, "", options, {})
    if not isinstance(client, redis.Redis):
        raise TypeError(f"a Broadcast needs a URL or a client of redis-py, not {client!r:.100}")
    pool: Any = client.connection_pool
    options = _without_state(pool.connection_kwargs)
    options["connection_class"] = pool.connection_class
    if "path" in options:
        url = f"unix://{options['path']}"
    elif "host" in options:
        url = f"redis://{options['host']}:{options.get('port', 6379)}/{options.get('db', 0)}"
    else:
        url = f"redis+sentinel:///{pool.service_name}"
    return Deployment("", url, [], "", options, {})


def _without_state(options: Keywords) -> Keywords:
    """Return the options of connections without what belongs to the client that they come from."""
    return {
        name: it
        for name, it in options.items()
        if it is not None and not name.startswith(("maint_", "orig_", "himport_"))
    }


def _parse_hosts(addresses: str, default_port: int) -> list[tuple[str, int]]:
    """Return the hosts and ports of a list separated by commas."""
    hosts = []
    for address in addresses.split(","):
        parts = urlsplit(f"//{address}")
        if not parts.hostname:
            raise ValueError(f"{address or 'an empty string'} is not an address of Redis")
        hosts.append((parts.hostname, parts.port or default_port))
    return hosts
