"""A second way to switch threads: at any statement, for code that reads without locks.

`install` has modules of the product that are imported later compiled with one more call before each statement
of their functions: `gives_way`, which a run binds to its kernel.  So a thread may lose its turn between any
two statements, as it may with real threads.  The modules must not have been imported before; so this is for
a process of its own (``python -m simulation --lines``).
"""
from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType
from typing import Any

#: Rooms whose code is read and written by several threads.
ROOMS = ('zeo_clone.client.', 'zeo_clone.cache.', 'zeo_clone.zrpc.channel.', 'zeo_clone.server.backend.',
         'zeo_clone.loop.')
#: Not these: what it is made of itself.
BESIDES = ('zeo_clone.loop.runtime',)
NAME = '__simulation_gives_way__'


def gives_way(function: Callable[[], object] | None) -> None:
    """Have `function` called before each statement; None: nothing happens there."""
    setattr(builtins, NAME, function or int)


def is_installed() -> bool:
    """Are statements switched at?"""
    return any(isinstance(finder, Finder) for finder in sys.meta_path)


def install() -> None:
    """From now on.  Raises RuntimeError if it is too late."""
    late = [name for name in sys.modules if _is_meant(name)]
    if late:
        raise RuntimeError(f'{late[0]} has been imported already')
    gives_way(None)
    sys.meta_path.insert(0, Finder())


def _is_meant(name: str) -> bool:
    return name.startswith(ROOMS) and name not in BESIDES


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules of `ROOMS`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if not _is_meant(name):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles them, and keeps nothing of that for others."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        tree = Statements().visit(ast.parse(data))
        ast.fix_missing_locations(tree)
        code: CodeType = compile(tree, path, 'exec', dont_inherit=True)
        return code


class Statements(ast.NodeTransformer):
    """Puts a call before each statement in functions."""

    def __init__(self) -> None:
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._depth += 1
        try:
            self.generic_visit(node)
        finally:
            self._depth -= 1
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if self._depth:
            for field in 'body', 'orelse', 'finalbody':
                statements = getattr(node, field, None)
                if isinstance(statements, list) and statements and not isinstance(node, ast.ClassDef):
                    setattr(node, field, self._with_calls(statements))
        return node

    @staticmethod
    def _with_calls(statements: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for statement in statements:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not is_text and not isinstance(statement, (ast.Global, ast.Nonlocal)):
                call = ast.Expr(ast.Call(ast.Name(NAME, ast.Load()), [], []))
                found.append(ast.copy_location(call, statement))
            found.append(statement)
        return found
