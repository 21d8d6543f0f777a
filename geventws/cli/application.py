"""Load the application ``MODULE:APP``."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from ..typing import Application, Keywords


def find_module(name: str) -> str:
    """Return the name of the module in ``module:app``. Check that it exists, but do not import it.

    :raises UsageError: if there is no such module.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module = name.partition(":")[0]
    if module.endswith(".py"):
        module = os.path.normpath(module).removesuffix(".py").replace(os.sep, ".")
        raise UsageError(f"{name} is a file: name the module and the application, {module}:app")
    top = module.partition(".")[0]
    if not top.isidentifier() or importlib.util.find_spec(top) is None:
        raise UsageError(f"there is no module {module} here")
    return module


def load_application(name: str) -> Application:
    """Return the application ``module:attribute``, or the result of ``module:create_app()``.

    The attribute is ``app`` by default, and may contain dots. Arguments of a call must be literals,
    such as in ``module:create_app("production", debug=False)``.

    :raises UsageError: if there is no such module or attribute, or it is not callable. Exceptions
        of the module and of the function are not caught.
    """
    module_name = find_module(name)
    expression = name.partition(":")[2] or "app"
    attribute, call = _parse(expression)
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise  # a module that the application imports is missing
        raise UsageError(f"there is no module {module_name} here") from None
    module = found
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = _hint(module)
            raise UsageError(f"{module_name} has no {attribute}{hint}") from None
    if call is not None and callable(found):
        found = found(*call[0], **call[1])
    if not callable(found):
        raise UsageError(f"{name} is not a WSGI application: it cannot be called")
    if not _takes_requests(found):
        raise UsageError(
            f"{name} is not a WSGI application: it takes other arguments. If it returns one, call"
            f' it: "{module_name}:{attribute}()"'
        )
    application: Application = found
    return application


def _hint(module: ModuleType) -> str:
    """Return the end of a message: an application that the module has under a usual name."""
    for attribute in ("app", "application", "create_app", "make_app"):
        if callable(getattr(module, attribute, None)):
            call = "()" if attribute.endswith("_app") else ""
            return f'. Did you mean "{module.__name__}:{attribute}{call}"?'
    return ""


def _takes_requests(found: Callable[..., object]) -> bool:
    """Whether it takes ``environ`` and ``start_response``, unlike most factories."""
    if not inspect.isfunction(found):
        return True
    try:
        inspect.signature(found, follow_wrapped=False).bind(None, None)
    except TypeError:
        return False
    return True


def _parse(expression: str) -> tuple[str, tuple[list[object], Keywords] | None]:
    """Return the dotted name, and the arguments if the expression is a call."""
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
