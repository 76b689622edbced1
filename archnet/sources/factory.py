"""`path/to/file.py:factory`: run the user's file and call one of its functions for the model.

This runs that file's code, with the rights of whoever runs Arch-Net: name only files that you trust.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from archnet.errors import ArchNetError, nearest
from archnet.sources.source import one_line


def call_factory(file: Path, factory: str) -> tuple[nn.Module, object | None]:
    """Run `file`, call its `factory()` and return (module, tokenizer or None).

    Raises:
        ArchNetError: the file or the function fails, is not there, or returns something else.
    """
    with _importable(file.parent):
        module = _run_file(file)
        function = _find(module, file, factory)
        try:
            result = function()
        except (Exception, SystemExit) as error:
            raise ArchNetError(
                f"{factory}() of {file} failed{_user_line(error, file)}: {one_line(error)}",
                fix="make the function work when it is called without arguments",
            ) from error
    tokenizer = None
    if isinstance(result, tuple) and len(result) == 2:
        result, tokenizer = result
    if not isinstance(result, nn.Module):
        raise ArchNetError(
            f"{factory}() of {file} returned {_type_name(result)}, not a torch.nn.Module",
            fix="return the module, or (module, tokenizer)",
        )
    return result, tokenizer


def _run_file(file: Path) -> ModuleType:
    name = f"archnet_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ArchNetError(f"{file} is no Python file", fix="name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ArchNetError(
            f"{file} could not be run{_user_line(error, file)}: {one_line(error)}",
            fix=f"make 'python {file}' run without an error first",
        ) from error
    return module


def _find(module: ModuleType, file: Path, factory: str) -> Callable[[], object]:
    own = {
        key
        for key, value in vars(module).items()
        if callable(value)
        and not key.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    }
    function = getattr(module, factory, None)
    if function is None:
        raise ArchNetError(
            f"{file} has no function {factory!r}",
            fix=nearest(factory, own) if own else f"define a function {factory}() that returns the module",
        )
    if not callable(function):
        raise ArchNetError(
            f"{factory} of {file} is {_type_name(function)}, not a function",
            fix=f"define a function {factory}() that returns the module",
        )
    return function  # type: ignore[no-any-return]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the user's file import its neighbours, as `python file.py` would."""
    path = os.fspath(folder.resolve())
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)


def _user_line(error: BaseException, file: Path) -> str:
    """Where in the user's file it happened: " at line 12"."""
    if isinstance(error, SyntaxError) and error.filename == str(file) and error.lineno:
        return f" at line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f" at line {lines[-1]}" if lines and lines[-1] else ""


def _type_name(value: object) -> str:
    return "None" if value is None else f"a {type(value).__qualname__}"
