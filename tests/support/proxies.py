"""nginx, HAProxy and Caddy with the files of ``deploy/``, in front of servers of the tests."""

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.servers import ROOT
from tests.support.tools import need

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def edited(name: str, changes: dict[str, str]) -> str:
    """A file of ``deploy/`` with each pattern replaced where it is; it must be there."""
    text = (ROOT / "deploy" / name).read_text()
    for pattern, new in changes.items():
        text, count = re.subn(pattern, lambda _, new=new: new, text)
        assert count, f"{name} has no {pattern}"
    return text


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, **options) -> Iterator[int]:
    """A program that listens on a port, which is returned; it is ended in the end."""
    with log.open("wb") as out:
        program = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **options
        )
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if program.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"it did not start:\n{log.read_text()}") from None
                time.sleep(0.05)
        yield port
    finally:
        program.terminate()
        try:
            program.wait(5)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


def nginx(folder: Path, backends: list[int], tls, changes: dict[str, str]):
    """The port of an nginx whose configuration is ``deploy/nginx.conf``."""
    program = need("nginx", "apt-get install nginx")
    port = free_port()
    text = edited(
        "nginx.conf",
        {
            r"listen 80;": f"listen 127.0.0.1:{free_port()};",
            r"listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            r"127\.0\.0\.1:8000;": f"127.0.0.1:{backends[0]};",
            r"# server 127\.0\.0\.1:8001;": f"server 127.0.0.1:{backends[1]};",
            r"/etc/ssl/chat/certificate\.pem": tls[0],
            r"/etc/ssl/chat/key\.pem": tls[1],
            **changes,
        },
    )
    (folder / "site.conf").write_text(text)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    return running(command, port, folder / "log")


def haproxy(folder: Path, backends: list[int], tls, changes: dict[str, str]):
    """The port of a HAProxy whose configuration is ``deploy/haproxy.cfg``."""
    program = need("haproxy", "apt-get install haproxy")
    port = free_port()
    pem = folder / "both.pem"
    pem.write_text(Path(tls[0]).read_text() + Path(tls[1]).read_text())
    text = edited(
        "haproxy.cfg",
        {
            r"maxconn 20000": "maxconn 1000",
            r"bind :80\b": f"bind 127.0.0.1:{free_port()}",
            r"bind :443": f"bind 127.0.0.1:{port}",
            r"/etc/haproxy/chat\.pem": str(pem),
            r"127\.0\.0\.1:8000": f"127.0.0.1:{backends[0]}",
            r"# server two 127\.0\.0\.1:8001": f"server two 127.0.0.1:{backends[1]}",
            **changes,
        },
    )
    (folder / "haproxy.cfg").write_text(text)
    return running([program, "-db", "-f", str(folder / "haproxy.cfg")], port, folder / "log")


def caddy(folder: Path, backends: list[int], tls, changes: dict[str, str]):
    """The port of a Caddy whose configuration is ``deploy/Caddyfile``, with a given certificate."""
    program = need("caddy", "apt-get install caddy")
    port = free_port()
    text = edited(
        "Caddyfile",
        {
            r"chat\.example\.com \{": f"https://localhost:{port} {{\n\ttls {tls[0]} {tls[1]}",
            r"127\.0\.0\.1:8000": f"127.0.0.1:{backends[0]} 127.0.0.1:{backends[1]}",
            **changes,
        },
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text)
    command = [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    return running(command, port, folder / "log", cwd=folder, env={"HOME": str(folder)})
