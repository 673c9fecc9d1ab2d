"""The name ``ZEO`` for code that was written for it: what ``zeo_clone.install_as_ZEO`` does.

After `install`, ``import ZEO`` and ``import ZEO.x`` give the very modules ``zeo_clone`` and
``zeo_clone.x``, loaded when they are first asked for.
"""
from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

OTHER_NAME = 'ZEO'
OWN_NAME = __name__.partition('.')[0]


class AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules under the other name.  Runs in the importing thread, under the import lock."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition('.')[0] != OTHER_NAME:
            return None
        own_name = OWN_NAME + fullname[len(OTHER_NAME):]
        if own_name != OWN_NAME and importlib.util.find_spec(own_name) is None:
            return None
        own = importlib.import_module(own_name)
        # The import system is about to give the module this new spec; keep its own.
        return importlib.machinery.ModuleSpec(fullname, self, loader_state=(own, own.__spec__))

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module: ModuleType = spec.loader_state[0]
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        module.__spec__ = spec.loader_state[1]


def install() -> None:
    """Let ``ZEO`` be us.  May be called again.  Raises ImportError if the real one is in use."""
    present = sys.modules.get(OTHER_NAME)
    own = sys.modules[OWN_NAME]
    if present is not None and present is not own:
        raise ImportError(
            f'the real ZEO has been imported already, from {getattr(present, "__file__", "?")}: call '
            f'{OWN_NAME}.install_as_ZEO() before anything imports ZEO')
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AliasFinder())
    importlib.import_module(OTHER_NAME)
