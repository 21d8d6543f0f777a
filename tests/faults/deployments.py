"""Redis for the trials: one server, a master with a replica and a sentinel, or a cluster."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable

import gevent
import redis
from redis.crc import key_slot

from tests.support.redis import RedisServer, free_port

#: Seconds until the URL's clients give up, unless a fault needs another value.
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

    def add(self, *arguments: str) -> RedisServer:
        server = RedisServer(self.program, *self.arguments, *arguments)
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
        for server in self.servers:
            with contextlib.suppress(FileNotFoundError):
                server.remove()


class Sentinel(Deployment):
    """A master and a replica. A sentinel reports the master, and replaces it."""

    def start(self) -> None:
        master = self.add()
        self.add("--replicaof", "127.0.0.1", str(master.port))
        self.sentinel_port = free_port()
        settings = master.folder / "sentinel.conf"
        settings.write_text(
            f"port {self.sentinel_port}\n"
            "bind 127.0.0.1\n"
            f"dir {master.folder}\n"
            f"sentinel monitor chat 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds chat 1000\n"
            "sentinel failover-timeout chat 5000\n"
        )
        with (master.folder / "sentinel.log").open("wb") as log:
            self.sentinel = subprocess.Popen(
                [self.program, str(settings), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with self.servers[1].client() as replica:
            wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        wait_until(self.knows_replica)

    def sentinel_client(self) -> redis.Redis:
        return redis.Redis(
            port=self.sentinel_port, decode_responses=True, protocol=2, socket_timeout=5
        )

    def knows_replica(self) -> bool:
        with contextlib.suppress(redis.ConnectionError), self.sentinel_client() as client:
            return int(client.sentinel_master("chat")["num-slaves"]) == 1
        return False

    def master_port(self) -> int:
        with self.sentinel_client() as client:
            return int(client.sentinel_get_master_addr_by_name("chat")[1])

    def wait_for_failover(self) -> None:
        """Wait until the sentinel reports the other server, and this one is a master."""
        other = self.servers[1]
        wait_until(lambda: self.master_port() == other.port)
        with other.client() as client:
            wait_until(lambda: client.info("replication")["role"] == "master")

    def url(self, port: int | None = None) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel_port}/chat?socket_timeout=1"

    def remove(self) -> None:
        if hasattr(self, "sentinel"):
            self.sentinel.kill()
            self.sentinel.wait()
        super().remove()


class Cluster(Deployment):
    """Two nodes, each with half of the slots. Two channels are on the first node."""

    RANGES = (0, 8191), (8192, 16383)

    def start(self) -> None:
        buses = [free_port(), free_port()]
        for bus in buses:
            self.add(
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                str(bus),
                "--cluster-node-timeout",
                "2000",
            )
        self.clients = [server.client(socket_timeout=5) for server in self.servers]
        for client in self.clients:
            # It would decode keys as UTF-8, and replace what it cannot decode.
            client.response_callbacks.pop("CLUSTER GETKEYSINSLOT", None)
        for client, slots in zip(self.clients, self.RANGES, strict=True):
            client.execute_command("CLUSTER ADDSLOTSRANGE", *slots)
        self.clients[0].execute_command("CLUSTER MEET", "127.0.0.1", self.servers[1].port, buses[1])
        self.ids = [client.execute_command("CLUSTER MYID").decode() for client in self.clients]
        self.wait_until_complete()
        self.channels = [*self.channels_of(0, 2), *self.channels_of(1, 1)]

    def wait_until_complete(self) -> None:
        wait_until(self.is_complete)

    def is_complete(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            infos = [client.execute_command("CLUSTER INFO") for client in self.clients]
            return all(
                info["cluster_state"] == "ok" and info["cluster_slots_assigned"] == "16384"
                for info in infos
            )
        return False

    def channels_of(self, node: int, count: int) -> list[str]:
        """Return the names of channels that belong to a node."""
        first, last = self.RANGES[node]
        names = (f"room-{number}" for number in range(1000))
        return [name for name in names if first <= slot_of(name) <= last][:count]

    def migrate(self, channel: str, source: int, target: int) -> None:
        """Move the slot of a channel with its keys, as ``redis-cli --cluster reshard`` does."""
        slot = slot_of(channel)
        old, new = self.clients[source], self.clients[target]
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.ids[source])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.ids[target])
        gevent.sleep(0.2)
        port = self.servers[target].port
        for _ in range(100):
            keys = old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1)
            if not keys:
                break
            old.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 1000, "KEYS", *keys)
            gevent.sleep(0.02)
        else:
            raise AssertionError(f"the keys of slot {slot} cannot be moved")
        gevent.sleep(0.2)
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", self.ids[target])

    def url(self, port: int | None = None) -> str:
        addresses = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"redis+cluster://{addresses}?socket_timeout={SOCKET_TIMEOUT}"

    def remove(self) -> None:
        for client in getattr(self, "clients", ()):
            client.close()
        super().remove()


def slot_of(channel: str) -> int:
    return key_slot(f"geventws:{channel}".encode())


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("Redis is not ready in time")
        gevent.sleep(0.05)
