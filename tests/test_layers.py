"""The architecture: three rules, and the interface between the halves of a connection.

1. A folder imports only from the folders below it.
2. The protocol imports neither gevent nor sockets.
3. Only modules for another package import that package.
"""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "geventws"
#: From the bottom up. The name of a folder stands for everything in it; "" is the package itself.
LAYERS = [
    {"exceptions", "typing"},
    {"protocol"},
    {"options"},
    {"connection"},
    {"client", "server", "broadcast"},
    {
        *("bottle", "cli", "compat", "django", "engineio", "flask", "integration", "js"),
        *("locust", "prometheus", "testing"),
    },
    {"", "__main__"},
]
#: Imports between folders of one layer.
BESIDE = {(name, "integration") for name in ("bottle", "django", "flask")} | {
    *(("cli", ""), ("compat", ""), ("flask", "cli"), ("server", "broadcast")),
}
#: The packages beside gevent that a module may import.
INTEGRATED = {
    "bottle": {"bottle"},
    "broadcast.postgresql_connections": {"psycopg"},
    "broadcast.redis": {"redis"},
    "broadcast.redis_subscriber": {"redis"},
    "broadcast.redis_urls": {"redis"},
    "cli.environment": {"dotenv"},
    "cli.gunicorn_worker": {"gunicorn"},
    "cli.logs": {"pythonjsonlogger"},
    "cli.lines": {"prompt_toolkit"},
    "cli.reload": {"watchfiles"},
    "client.socks": {"python_socks"},
    "compat.workers": {"gunicorn"},
    "django": {"django", "asgiref"},
    "flask": {"flask", "werkzeug"},
    "locust": {"locust"},
    "prometheus": {"prometheus_client"},
    "protocol.compression": {"isal"},
    "protocol.urls": {"idna"},
    "server.worker": {"gunicorn"},
    "server.worker_direct": {"gunicorn"},
    "testing.broadcast": {"pytest"},
}
LEVEL = {folder: level for level, layer in enumerate(LAYERS) for folder in layer}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    for path in PACKAGE.rglob("*.py")
)
#: Private names of connections that other folders may use, see Connection's docstring.
INTERNAL_INTERFACE = {
    "_was_accepted_late",
    "_allow_messages_of",
    "_buffered",
    "_close_at_end",
    "_do_not_close_at_end",
    "_drop",
    "_drop_incomplete",
    "_drop_slow_consumer",
    "_has_id",
    "_is_detached",
    "_is_ending",
    "_is_over",
    "_note_gap",
    "_open",
    "_options",
    "_send_frames",
    "_send_limit",
    "_start_close",
}


def folder_of(module):
    return module.partition(".")[0]


def imports_of(module):
    """(absolute names, names inside the package) that a module imports, for type checkers too."""
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    is_package = path.is_dir()
    tree = ast.parse((path / "__init__.py" if is_package else path.with_suffix(".py")).read_text())
    parent = module.split(".") if is_package and module else module.split(".")[:-1]
    outside, inside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1]
            names = [".".join([*base, *filter(None, [node.module]), n.name]) for n in node.names]
            module_itself = ".".join([*base, *filter(None, [node.module])])
            inside |= {name if name in MODULES else module_itself for name in names}
    return {name.partition(".")[0] for name in outside}, inside & set(MODULES)


def test_every_folder_has_its_layer():
    assert {folder_of(module) for module in MODULES} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_a_folder_imports_only_from_the_folders_below_it(module):
    here = folder_of(module)
    wrong = {
        name
        for name in imports_of(module)[1]
        if folder_of(name) != here
        and LEVEL[folder_of(name)] >= LEVEL[here]
        and (here, folder_of(name)) not in BESIDE
    }
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports_of(module)[1] - {"", module} for module in MODULES if module}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_protocol_can_be_imported_with_gevent_and_sockets_blocked():
    modules = [f"geventws.{each}" for each in MODULES if folder_of(each) == "protocol"]
    program = f"""
import sys
for name in ("gevent", "greenlet", "socket", "_socket", "ssl", "select", "selectors"):
    sys.modules[name] = None
import types
package = types.ModuleType("geventws")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["geventws"] = package
import importlib
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_nothing_but_gevent_is_needed_except_for_what_it_integrates_with(module):
    roots = imports_of(module)[0]
    with_gevent = {"gevent", "greenlet"}
    assert roots - sys.stdlib_module_names <= with_gevent | INTEGRATED.get(module, set())


def private_names_of_connections():
    """Private names that are defined in the classes of a connection."""
    names = set()
    for path in ("connection/transport_py.py", "connection/connection.py", "server/websocket.py"):
        source = (PACKAGE / path).read_text()
        names |= set(re.findall(r'def (_[a-z]\w*)|self\.(_[a-z]\w*)|"(_[a-z]\w*)",', source))
    return {name for group in names for name in group if name}


@pytest.mark.parametrize(
    "module",
    [
        module
        for module in MODULES
        if folder_of(module) not in {"connection", "protocol"}
        and module not in {"server.websocket", "client.client", "client.reconnecting", "testing"}
    ],
)
def test_other_modules_use_only_the_internal_interface_of_a_connection(module):
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    used = set(re.findall(r"\b(?:ws|_ws|connection|accepted)\.(_[a-z]\w*)", path.read_text()))
    allowed = INTERNAL_INTERFACE
    if folder_of(module) == "server":
        allowed = allowed | {
            "_adapter",
            "_client_left",
            "_expect_answer",
            "_has_ended",
            "_is_used_by_application",
            "_leave_view",
            "_log_end",
            "_log_fault",
            "_note_response",
            "_on_message",
            "_sock",
            "_stop_expecting_answer",
            "_view",
            "_waits_for_greenlet",
            "_worker",
            "_wait_while_accepting",
            "_warn",
        }
    elif module in {"integration", "compat.handler", "broadcast.broadcast"}:
        allowed = allowed | {"_around", "_headers_hook", "_sock", "_endpoint"}
    assert used & private_names_of_connections() <= allowed
