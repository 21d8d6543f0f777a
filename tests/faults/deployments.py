"""Redis for the trials: one server, a master with a replica and a sentinel, or a cluster."""

import shutil

import gevent
import redis
from redis.crc import key_slot

from tests.support import redis as support
from tests.support.redis import RedisServer
from tests.support.tools import wait_until

#: Seconds until the clients of a URL give up.
SOCKET_TIMEOUT = 1.0


class Deployment:
    """One Redis server. The subclasses are more servers.

    :param arguments: arguments for each ``redis-server``.
    """

    def __init__(self, *arguments: str) -> None:
        self.program = shutil.which("redis-server") or "redis-server"
        self.arguments = arguments
        self.servers: list[RedisServer] = []
        #: The channels of the publishers and the clients.
        self.channels = ["room-0", "room-1", "room-2"]

    def start(self) -> None:
        """Start all servers. :meth:`remove` is necessary even if this method fails."""
        self.add()

    def add(self, *arguments: str, port: int = 0) -> RedisServer:
        server = RedisServer(self.program, *self.arguments, *arguments, port=port)
        self.servers.append(server)
        server.start()
        return server

    @property
    def server(self) -> RedisServer:
        return self.servers[0]

    def url(self, port: int | None = None) -> str:
        """Return the URL for ``Broadcast``; ``port`` is the one of a gateway."""
        return f"redis://127.0.0.1:{port or self.server.port}?socket_timeout={SOCKET_TIMEOUT}"

    def remove(self) -> None:
        for server in reversed(self.servers):
            server.remove()


class Sentinel(Deployment):
    """A master and a replica. A sentinel reports the master, and replaces it."""

    def start(self) -> None:
        master = self.add()
        replica = self.add("--replicaof", "127.0.0.1", str(master.port))
        self.port = support.start_sentinel(
            self.add,
            0,
            master.port,
            f"dir {master.folder}",
            "sentinel down-after-milliseconds chat 1000",
            "sentinel failover-timeout chat 5000",
        )
        with replica.client() as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        with self.sentinel_client() as client:
            wait_until(lambda: int(client.sentinel_master("chat")["num-slaves"]) == 1)

    def sentinel_client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, protocol=2, socket_timeout=5)

    def wait_for_failover(self) -> None:
        """Wait until the sentinel reports the other server, and this one is a master."""
        other = self.servers[1]
        address = "127.0.0.1", other.port
        with self.sentinel_client() as client:
            wait_until(lambda: client.sentinel_get_master_addr_by_name("chat") == address)
        with other.client() as client:
            wait_until(lambda: client.info("replication")["role"] == "master")

    def url(self, port: int | None = None) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/chat?socket_timeout={SOCKET_TIMEOUT}"


class Cluster(Deployment):
    """Two nodes, each with half of the slots. Two channels are on the first node."""

    nodes: support.Cluster | None = None

    def start(self) -> None:
        self.nodes = support.Cluster(self.add)
        for client in self.nodes.clients:
            # It would decode keys as UTF-8, and replace what it cannot decode.
            client.response_callbacks.pop("CLUSTER GETKEYSINSLOT", None)
        self.channels = [*self.nodes.channels_of(0, 2), *self.nodes.channels_of(1, 1)]

    def wait_until_complete(self) -> None:
        wait_until(self.nodes.is_complete)

    def migrate(self, channel: str, source: int, target: int) -> None:
        """Move the slot of a channel with its keys, as ``redis-cli --cluster reshard`` does."""
        slot = key_slot(self.nodes.key(channel))
        ids, port = self.nodes.ids, self.servers[target].port
        old, new = self.nodes.clients[source], self.nodes.clients[target]
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
        gevent.sleep(0.2)
        for _ in range(100):
            keys = old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1)
            if not keys:
                break
            old.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 1000, "KEYS", *keys)
            gevent.sleep(0.02)
        else:
            raise AssertionError(f"the keys of slot {slot} cannot be moved")
        gevent.sleep(0.2)
        self.nodes.move(channel, target)

    def url(self, port: int | None = None) -> str:
        return f"{self.nodes.url}?socket_timeout={SOCKET_TIMEOUT}"

    def remove(self) -> None:
        if self.nodes is not None:
            self.nodes.close()
        super().remove()
