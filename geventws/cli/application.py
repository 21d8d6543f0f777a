"""The application that ``module:app`` names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from typing import Any

from .errors import UsageError


def find_module(name: str) -> str:
    """The module's name, from ``module:app``; it is not imported.

    :raises UsageError: when there is no such module.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module = name.partition(":")[0]
    top = module.partition(".")[0]
    if not top.isidentifier() or importlib.util.find_spec(top) is None:
        raise UsageError(f"there is no module {module} here")
    return module


def load_application(name: str) -> Any:
    """The application that ``module:attribute`` names, or ``module:create_app()`` makes.

    The attribute is ``app`` by default, and may be a dotted one. Arguments of a call are literals,
    as in ``module:create_app("production", debug=False)``.

    :raises UsageError: when there is no such module or attribute. What the module and the function
        raise themselves is not caught.
    """
    module_name = find_module(name)
    expression = name.partition(":")[2] or "app"
    attribute, call = _parse(expression)
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise  # something that the module itself imports
        raise UsageError(f"there is no module {module_name} here") from None
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"{module_name} has no {attribute}") from None
    if call is not None and callable(found):
        found = found(*call[0], **call[1])
    if not callable(found):
        raise UsageError(f"{name} is not a WSGI application: it cannot be called")
    return found


def _parse(expression: str) -> tuple[str, tuple[list[Any], dict[str, Any]] | None]:
    """A dotted name, and the arguments of the call behind it, if there is one."""
    try:
        node = ast.parse(expression, mode="eval").body
        call = None
        if isinstance(node, ast.Call):
            positional = [ast.literal_eval(argument) for argument in node.args]
            named = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in node.keywords
                if keyword.arg is not None
            }
            call = positional, named
            node = node.func
        name = ast.unparse(node)
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError
    except (SyntaxError, ValueError):
        raise UsageError(
            f"{expression} is neither a name such as app nor a call such as create_app()"
        ) from None
    return name, call
