"""The servers that are compared, and how each is started and stopped."""
# ruff: noqa: S603

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab import BUILD, HERE, CannotRunError, on_core, peers_environ

START_SECONDS = 20


@dataclass(frozen=True)
class Peer:
    """One line of the table."""

    name: str
    how: str
    script: str
    package: str
    environ: dict[str, str] = field(default_factory=dict)
    #: What users install that is built on it.
    users: str = ""
    #: Whether it has permessage-deflate.
    compresses: bool = True

    @property
    def title(self) -> str:
        return f"{self.name} ({self.users})" if self.users else self.name

    def label(self, versions: Mapping[str, str]) -> str:
        return f"{self.name} {versions[self.package]}"


#: geventws first, then the libraries on gevent, then the libraries on asyncio.
PEERS = [
    Peer("geventws", "compiled core, its own server", "echo_geventws.py", "geventws"),
    Peer(
        "geventws-detached",
        "compiled core, its own server, `ws.detach()`",
        "echo_geventws_detached.py",
        "geventws",
    ),
    Peer(
        "geventws-python",
        "plain Python core, its own server",
        "echo_geventws.py",
        "geventws",
        {"GEVENTWS_PURE_PYTHON": "1"},
        "no compiler",
    ),
    Peer(
        "gevent-websocket",
        "`gevent.pywsgi`, with wsaccel",
        "echo_gevent_websocket.py",
        "gevent-websocket",
        compresses=False,
    ),
    Peer(
        "simple-websocket",
        "`gunicorn -k gevent`",
        "echo_simple_websocket.py",
        "simple-websocket",
        users="flask-sock",
    ),
    Peer("websockets", "asyncio server, uvloop", "echo_websockets.py", "websockets"),
    Peer("aiohttp", "uvloop", "echo_aiohttp.py", "aiohttp"),
    Peer(
        "uvicorn",
        "ASGI; websockets-sansio, uvloop, httptools",
        "echo_uvicorn.py",
        "uvicorn",
        users="FastAPI, Channels",
    ),
    Peer("picows", "callbacks on frames, uvloop", "echo_picows.py", "picows", compresses=False),
]


@dataclass(frozen=True)
class Server:
    """A peer that runs."""

    peer: Peer
    port: int
    group: int

    def processes(self) -> list[int]:
        """All processes of the server: gunicorn has a second one."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # proc(5): after the name, which may contain anything, state, ppid and pgrp.
                group = stat.read_text().rpartition(")")[2].split()[2]
            except OSError:
                continue  # it has ended meanwhile
            if int(group) == self.group:
                found.append(int(stat.parent.name))
        return found


@contextmanager
def running(peer: Peer, python: Path, core: int) -> Iterator[Server]:
    """Run the server on this core until the block ends; it is killed then, with its children."""
    port = _free_port()
    log = BUILD / f"{peer.name}.log"
    command = [str(python), str(HERE / "servers" / peer.script), str(port)]
    environ = peers_environ() | peer.environ
    with log.open("w") as output, on_core(core):
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_for(process, port, log)
        yield Server(peer, port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # it does not listen yet
        else:
            return
    raise CannotRunError(f"{log.read_text(errors='replace')}\nno server is running, see {log}")
