"""The table of faults. Each function injects its fault, and heals it before it returns."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent

from tests.faults import gateway as gateways
from tests.faults.deployments import Cluster, Deployment, Sentinel

if TYPE_CHECKING:
    from tests.faults.trial import Trial

#: A history that keeps everything that is published in a trial.
ALL = 10_000
AOF = ("--appendonly", "yes", "--appendfsync", "always")
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")


@dataclass(frozen=True)
class Fault:
    """A row of the table: how to inject the fault, and what it needs."""

    name: str
    inject: Callable[[Trial], None]
    #: Whether the workers reach Redis through a gateway. The other publishers do not use it.
    uses_gateway: bool = False
    deployment: type[Deployment] = Deployment
    #: Arguments for redis-server and gunicorn.
    redis: tuple[str, ...] = ()
    gunicorn: tuple[str, ...] = ()
    history: int = ALL
    #: Whether Redis keeps all messages. Then the server must not tell a client of a gap.
    is_lossless: bool = True
    #: Whether the ids of a channel rise in the order of publication.
    ids_rise: bool = True
    #: Whether Redis may lose messages without a trace that some workers have not received. Live
    #: clients cannot be told of that gap.
    loses_unseen: bool = False
    #: A channel with clients and a publisher whose messages are not checked.
    odd_channel: str = ""

    @property
    def description(self) -> str:
        return (self.inject.__doc__ or "").strip()


FAULTS: dict[str, Fault] = {}


def fault(name: str, **options) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Add a function to the table."""

    def register(inject: Callable[[Trial], None]) -> Callable[[Trial], None]:
        FAULTS[name] = Fault(name, inject, **options)
        return inject

    return register


@fault("none")
def inject_nothing(trial: Trial) -> None:
    """Nothing fails; clients come and go."""
    trial.pause(3)


# ------------------------------------------------------------------ the network


@fault("delay", uses_gateway=True)
def delay(trial: Trial) -> None:
    """All data between the workers and Redis is delayed by 20 to 40 ms."""
    trial.gateway.latency = lambda _: trial.chance.uniform(0.02, 0.04)
    trial.pause(3)
    trial.gateway.cut()
    trial.pause(2)
    trial.gateway.latency = None


@fault("cut", uses_gateway=True)
def cut(trial: Trial) -> None:
    """All connections between the workers and Redis are cut."""
    for _ in trial.rounds():
        trial.gateway.cut()
        trial.pause(1.2)


@fault("cut-at-random", uses_gateway=True)
def cut_at_random(trial: Trial) -> None:
    """Single connections are cut at random moments, while all data is delayed by 10 to 30 ms."""
    trial.gateway.latency = lambda _: trial.chance.uniform(0.01, 0.03)
    for _ in range(20 * len(trial.rounds())):
        trial.gateway.cut(trial.chance)
        gevent.sleep(trial.chance.uniform(0.02, 0.25))
    trial.gateway.latency = None


@fault("cut-during-history", uses_gateway=True)
def cut_during_history(trial: Trial) -> None:
    """Connections for subscriptions are cut while replies with the history are delayed."""

    def latency(link: gateways.Link) -> float:
        return trial.chance.choice([0, 0.02, 0.15]) if link.reads_history else 0.0

    trial.gateway.latency = latency
    for _ in range(8 * len(trial.rounds())):
        trial.gateway.cut(only_subscribers=True)
        gevent.sleep(trial.chance.uniform(0.4, 0.8))
    trial.gateway.latency = None


@fault("cut-before-history", uses_gateway=True)
def cut_before_history(trial: Trial) -> None:
    """Connections are cut before the reply to a command that reads the history."""
    for _ in trial.rounds():
        with trial.gateway.cutting(4, before=gateways.reads_history):
            trial.gateway.cut()
            trial.pause(1.5)


@fault("cut-after-subscribe", uses_gateway=True)
def cut_after_subscribe(trial: Trial) -> None:
    """Connections are cut after the confirmation of SUBSCRIBE."""
    for _ in trial.rounds():
        with trial.gateway.cutting(4, after=gateways.confirms_subscription):
            trial.gateway.cut()
            trial.pause(1.5)


@fault("cut-before-pong", uses_gateway=True)
def cut_before_pong(trial: Trial) -> None:
    """Connections for subscriptions are cut before the answer to PING."""
    for _ in trial.rounds():
        with trial.gateway.cutting(4, before=gateways.is_pong):
            trial.gateway.cut()
            trial.pause(1.5)


@fault("hold-replies", uses_gateway=True)
def hold_replies(trial: Trial) -> None:
    """Replies of Redis arrive after the socket timeout."""
    for _ in trial.rounds():
        with trial.gateway.holding_replies():
            trial.pause(1.6)
        trial.pause(1)


@fault("half-open-to-redis", uses_gateway=True)
def lose_commands(trial: Trial) -> None:
    """Commands of existing connections are lost, and nobody closes the connections."""
    for _ in trial.rounds(2):
        trial.gateway.lose(gateways.TO_REDIS)
        trial.pause(3.5)


@fault("half-open-to-workers", uses_gateway=True)
def lose_replies(trial: Trial) -> None:
    """Replies on existing connections are lost, and nobody closes the connections."""
    for _ in trial.rounds(2):
        trial.gateway.lose(gateways.TO_WORKERS)
        trial.pause(3.5)


@fault("half-open-subscriber", uses_gateway=True)
def lose_subscribed_messages(trial: Trial) -> None:
    """Data of the connections for subscriptions is lost; all other connections work."""
    for _ in trial.rounds(2):
        trial.gateway.lose(gateways.TO_WORKERS, only_subscribers=True)
        trial.pause(3.5)


@fault("more-than-history", uses_gateway=True, history=20, is_lossless=False)
def exceed_history(trial: Trial) -> None:
    """The workers are cut off while more messages are published than the history keeps."""
    for _ in trial.rounds(2):
        with trial.gateway.refusing():
            trial.pause(2.5)
        trial.pause(2)


# ------------------------------------------------------------- Redis, one server


def restart(trial: Trial) -> None:
    for _ in trial.rounds():
        trial.redis.kill()
        trial.pause(0.5)
        trial.redis.start()
        trial.pause(2)


@fault("restart-aof-always", redis=AOF)
def restart_with_aof(trial: Trial) -> None:
    """Redis is killed and restarted with an append-only file, synchronized always."""
    restart(trial)


@fault("restart-aof-everysec", redis=EVERYSEC)
def restart_with_everysec(trial: Trial) -> None:
    """Redis is killed and restarted with an append-only file, synchronized every second."""
    restart(trial)


@fault("restart-empty", is_lossless=False, loses_unseen=True)
def restart_without_persistence(trial: Trial) -> None:
    """Redis is killed and restarted without its data."""
    restart(trial)


@fault("restart-empty-unseen", uses_gateway=True, is_lossless=False, loses_unseen=True)
def restart_after_unseen_messages(trial: Trial) -> None:
    """Redis loses its data, and also messages that no worker has received."""
    for _ in trial.rounds():
        with trial.gateway.refusing():
            trial.pause(0.7)
            trial.redis.kill()
            trial.redis.start()
            trial.pause(0.3)
        trial.pause(2)


@fault("flushall-unseen", uses_gateway=True, is_lossless=False)
def flush_unseen_messages(trial: Trial) -> None:
    """FLUSHALL deletes messages that no worker has received."""
    with trial.admin() as admin:
        for _ in trial.rounds():
            with trial.gateway.refusing():
                trial.pause(0.7)
                admin.flushall()
                trial.pause(0.3)
            trial.pause(2)


def stop_redis(trial: Trial, seconds: float) -> None:
    for _ in trial.rounds():
        trial.redis.send_signal(signal.SIGSTOP)
        trial.pause(seconds)
        trial.redis.send_signal(signal.SIGCONT)
        trial.pause(1.5)


@fault("stop-short")
def stop_for_less_than_the_timeout(trial: Trial) -> None:
    """Redis is stopped by SIGSTOP for less than the socket timeout."""
    stop_redis(trial, 0.8)


@fault("stop-long")
def stop_for_more_than_the_timeout(trial: Trial) -> None:
    """Redis is stopped by SIGSTOP for more than twice the socket timeout."""
    stop_redis(trial, 2.5)


@fault("flushall", is_lossless=False)
def flush(trial: Trial) -> None:
    """FLUSHALL deletes all data of Redis, and connections are cut afterwards."""
    with trial.admin() as admin:
        for _ in trial.rounds():
            admin.flushall()
            trial.pause(0.7)
            admin.execute_command("CLIENT KILL TYPE pubsub")
            trial.pause(1)


@fault("eviction", is_lossless=False)
def evict(trial: Trial) -> None:
    """Redis reaches maxmemory, and evicts histories with the policy allkeys-lru."""
    with trial.admin() as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
        for _ in trial.rounds():
            admin.config_set("maxmemory", 1)
            trial.pause(0.3)
            admin.config_set("maxmemory", 0)
            admin.execute_command("CLIENT KILL TYPE pubsub")
            trial.pause(1.2)
        trial.note(f"{admin.info('stats')['evicted_keys']} keys evicted")


@fault("out-of-memory")
def run_out_of_memory(trial: Trial) -> None:
    """Redis reaches maxmemory, and refuses commands with the policy noeviction."""
    with trial.admin() as admin:
        for _ in trial.rounds():
            admin.config_set("maxmemory", 1)
            trial.pause(1)
            admin.config_set("maxmemory", 0)
            trial.pause(1.5)


@fault("client-kill-pubsub")
def kill_subscribers(trial: Trial) -> None:
    """CLIENT KILL ends the connections for subscriptions."""
    with trial.admin() as admin:
        for _ in trial.rounds():
            trial.note_sum("connections killed", admin.execute_command("CLIENT KILL TYPE pubsub"))
            trial.pause(1)


@fault("client-kill-normal")
def kill_others(trial: Trial) -> None:
    """CLIENT KILL ends all connections except those for subscriptions."""
    with trial.admin() as admin:
        for _ in trial.rounds():
            trial.note_sum("connections killed", admin.execute_command("CLIENT KILL TYPE normal"))
            trial.pause(1)


@fault("client-pause")
def pause_clients(trial: Trial) -> None:
    """CLIENT PAUSE delays all commands for longer than the socket timeout."""
    for _ in trial.rounds():
        with trial.admin() as admin:
            admin.execute_command("CLIENT PAUSE 1500 ALL")
        trial.pause(3)


@fault("output-buffer")
def exceed_output_buffer(trial: Trial) -> None:
    """A burst exceeds client-output-buffer-limit, and Redis ends the subscribers' connections."""
    burst = "for _ = 1, 200 do redis.call('PUBLISH', KEYS[1], string.rep('x', 1000)) end"
    with trial.admin() as admin:
        admin.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        for _ in trial.rounds():
            for channel in trial.channels:
                admin.eval(burst, 1, f"geventws:{channel}")
            trial.pause(1.5)
        count = admin.info("stats").get("client_output_buffer_limit_disconnections")
        if count is not None:
            trial.note(f"{count} connections over the limit")


# ------------------------------------------------------------ sentinel, cluster


@fault("sentinel-failover", deployment=Sentinel, is_lossless=False, ids_rise=False)
def fail_over(trial: Trial) -> None:
    """SENTINEL FAILOVER makes the replica the master; publishers notice it before subscribers."""
    assert isinstance(trial.deployment, Sentinel)
    with trial.deployment.sentinel_client() as sentinel:
        sentinel.execute_command("SENTINEL FAILOVER chat")
    trial.deployment.wait_for_failover()
    trial.pause(2)
    with trial.admin() as old_master:
        old_master.execute_command("CLIENT KILL TYPE normal")
    # After about eight seconds, the sentinel makes the old master a replica.
    trial.pause(12)


@fault("sentinel-kill", deployment=Sentinel, is_lossless=False, ids_rise=False)
def kill_master(trial: Trial) -> None:
    """The master is killed, and the sentinel makes the replica the master."""
    assert isinstance(trial.deployment, Sentinel)
    trial.redis.kill()
    trial.deployment.wait_for_failover()
    trial.pause(2)
    trial.redis.start()
    trial.pause(2)


@fault("cluster-node-restart", deployment=Cluster, redis=AOF)
def restart_node(trial: Trial) -> None:
    """A node of the cluster is killed and restarted with its data."""
    assert isinstance(trial.deployment, Cluster)
    for _ in trial.rounds(2):
        trial.redis.kill()
        trial.pause(1)
        trial.redis.start()
        trial.deployment.wait_until_complete()
        trial.pause(2)


@fault("cluster-migration", deployment=Cluster)
def migrate_slot(trial: Trial) -> None:
    """The slots of two channels move to another node and back, with their histories."""
    assert isinstance(trial.deployment, Cluster)
    for _ in trial.rounds():
        for source, target in ((0, 1), (1, 0)):
            for channel in trial.channels[:2]:
                trial.deployment.migrate(channel, source, target)
                trial.pause(0.8)


# ------------------------------------------------------- one channel of many


@fault("odd-type", odd_channel="odd")
def set_another_type(trial: Trial) -> None:
    """The key of one channel is a string instead of a stream; other channels must work."""
    with trial.admin() as admin:
        for _ in trial.rounds():
            admin.set("geventws:odd", "x")
            admin.execute_command("CLIENT KILL TYPE pubsub")
            trial.pause(1.5)


@fault("odd-permission", odd_channel="odd")
def forbid_channel(trial: Trial) -> None:
    """An access control list forbids one channel; other channels must work."""
    with trial.admin() as admin:
        rules = ["resetchannels", *(f"&geventws:{channel}" for channel in trial.channels)]
        admin.execute_command("ACL", "SETUSER", "default", *rules)
        for _ in trial.rounds():
            admin.execute_command("CLIENT KILL TYPE pubsub")
            trial.pause(1.5)


@fault("odd-entries")
def add_foreign_entries(trial: Trial) -> None:
    """Other programs add entries to the streams, and publish to the Redis channels."""
    with trial.admin() as admin:
        for _ in trial.rounds():
            for channel in trial.channels:
                for fields in ({"x": "y"}, {"m": b"\x01\xff"}, {"m": ""}):
                    admin.xadd(f"geventws:{channel}", fields)
                for data in (b"", b"text", b"\x01 \xff", b"\x03elsewhere"):
                    admin.publish(f"geventws:{channel}", data)
            trial.pause(0.5)
            admin.execute_command("CLIENT KILL TYPE pubsub")
            trial.pause(0.7)


# ----------------------------------------------------------------- the workers


def signal_workers(trial: Trial, number: int) -> None:
    for _ in trial.rounds():
        os.kill(trial.chance.choice(trial.worker_pids()), number)
        trial.pause(2)


@fault("worker-kill")
def kill_worker(trial: Trial) -> None:
    """A worker is killed by SIGKILL, and gunicorn starts another one."""
    signal_workers(trial, signal.SIGKILL)


@fault("worker-term")
def terminate_worker(trial: Trial) -> None:
    """A worker shuts down after SIGTERM, and gunicorn starts another one."""
    signal_workers(trial, signal.SIGTERM)


@fault("gunicorn-hup")
def reload_gunicorn(trial: Trial) -> None:
    """Gunicorn replaces all workers after SIGHUP."""
    for _ in trial.rounds(2):
        trial.process.process.send_signal(signal.SIGHUP)
        trial.pause(4)


@fault("max-requests", gunicorn=("--max-requests", "25", "--max-requests-jitter", "15"))
def limit_requests(trial: Trial) -> None:
    """Workers shut down after 25 to 40 requests, because of max-requests."""
    before = set(trial.worker_pids())
    trial.pause(12)
    trial.note(f"{len(before - set(trial.worker_pids()))} workers replaced")
