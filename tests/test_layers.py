"""The architecture: a layer imports only from those below it."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "geventws"
#: From the bottom up; modules of one line may import each other.
LAYERS = [
    {"exceptions", "memory"},
    {"frames", "headers", "http_head", "logs"},
    {"http_body", "request"},
    {"deflate"},
    {"permessage_deflate"},
    {"options"},
    {"handshake", "_core.reader"},
    {"client_handshake"},
    {"dialling", "progress", "threads"},
    {"_core.transport", "sweeper"},
    {"_core"},
    {"protocol", "totals"},
    {"connection"},
    {"client"},
    {"hosts"},
    {"websocket", "broadcast.base"},
    {"broadcast.memory", "broadcast.redis", "broadcast.local"},
    {"broadcast.broadcast"},
    {"broadcast"},
    {"drain"},
    {"middleware", "http"},
    {"handler"},
    {"server"},
    {"engineio"},
    {"worker"},
    {"bottle", "flask", "prometheus", "testing"},
    {"cli.errors"},
    {"cli.application", "cli.listeners", "cli.settings"},
    {"cli.connect", "cli.reload", "cli.workers"},
    {"cli.bench"},
    {"cli.serve"},
    {"cli", ""},
    {"__main__"},
    {
        "compat.exceptions",
        "compat.logs",
        "compat.protocols",
        "compat.python",
        "compat.utf8validator",
    },
    {"compat.resource", "compat.websocket"},
    {"compat.handler"},
    {"compat.server", "compat.workers"},
    {"compat.names"},
    {"compat"},
]
#: What a module may import beside the standard library and gevent: the others are optional.
INTEGRATED = {
    "bottle": {"bottle"},
    "broadcast.redis": {"redis"},
    "cli.reload": {"watchfiles"},
    "compat.workers": {"gunicorn"},
    "deflate": {"isal"},
    "flask": {"flask", "werkzeug"},
    "prometheus": {"prometheus_client"},
    "worker": {"gunicorn"},
}
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    for path in PACKAGE.rglob("*.py")
)


def imports_of(module):
    """(absolute names, names inside the package) that a module imports at run time."""
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    is_package = path.is_dir()
    tree = ast.parse((path / "__init__.py" if is_package else path.with_suffix(".py")).read_text())
    parent = module.split(".") if is_package and module else module.split(".")[:-1]
    outside, inside = set(), set()
    for node in walk_run_time(tree):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1]
            if node.module:
                inside.add(".".join([*base, node.module]))
            else:
                inside |= {".".join([*base, alias.name]) for alias in node.names}
    return outside, inside & set(MODULES)


def walk_run_time(tree):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from walk_run_time(node)


def test_every_module_has_its_layer():
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_below(module):
    if module == "":
        return  # the package itself gathers what users import
    above = {name for name in imports_of(module)[1] if LEVEL[name] >= LEVEL[module]}
    assert not above


@pytest.mark.parametrize(
    "module", [module for module in MODULES if LEVEL[module] <= LEVEL["client_handshake"]]
)
def test_frames_and_handshake_know_neither_gevent_nor_sockets(module):
    roots = {name.partition(".")[0] for name in imports_of(module)[0]}
    assert not roots & {"gevent", "greenlet", "socket", "ssl", "select", "asyncio", "threading"}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_but_gevent_is_needed_except_for_what_it_integrates_with(module):
    roots = {name.partition(".")[0] for name in imports_of(module)[0]}
    assert roots - sys.stdlib_module_names <= {"gevent"} | INTEGRATED.get(module, set())
