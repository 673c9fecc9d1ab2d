"""The name ``ZEO`` for code that was written for it, in one process or in a whole environment.

After `install`, which is what ``zeo_clone.install_as_ZEO`` does, ``import ZEO`` and ``import ZEO.x`` give the
very modules ``zeo_clone`` and ``zeo_clone.x``, loaded when they are first asked for; ``python -m ZEO.x`` runs
them.

``python -m zeo_clone.alias install`` has every Python of the environment begin so, by a ``.pth`` file.  What
that adds imports us when ZEO is asked for: a Python that never does so starts as fast as before.
"""
from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

OTHER_NAME = 'ZEO'
OWN_NAME = __name__.partition('.')[0]
#: The file that `main` writes among the packages of an environment, and what it says, in one line, as
#: ``site`` wants it.
FILE_NAME = 'zeo_clone_as_ZEO.pth'
LINE = ("import sys; sys.meta_path.insert(0, type('ZEOAlias', (), {'stands_in': 'ZEO', 'find_spec': "
        "staticmethod(lambda name, path=None, target=None: "
        "__import__('zeo_clone.alias').alias.AliasFinder().find_spec(name) "
        "if name.partition('.')[0] == 'ZEO' else None)})())\n")


class AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds modules under the other name.  Runs in the importing thread, under the import lock."""

    stands_in = OTHER_NAME

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition('.')[0] != OTHER_NAME:
            return None
        own_spec = importlib.util.find_spec(own_name(fullname))
        if own_spec is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=own_spec.origin)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(own_name(spec.name))
        # The import system is about to give the module the new spec; keep its own.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        module.__spec__ = spec.loader_state

    # What ``python -m ZEO.runzeo`` asks, which runs a module without importing it.

    def get_code(self, fullname: str) -> CodeType | None:
        code: CodeType | None = _own_loader(fullname).get_code(own_name(fullname))
        return code

    def get_source(self, fullname: str) -> str | None:
        source: str | None = _own_loader(fullname).get_source(own_name(fullname))
        return source

    def is_package(self, fullname: str) -> bool:
        return bool(_own_loader(fullname).is_package(own_name(fullname)))


def own_name(fullname: str) -> str:
    """The name of ours that ``ZEO`` or ``ZEO.x`` stands for."""
    return OWN_NAME + fullname[len(OTHER_NAME):]


def _own_loader(fullname: str) -> Any:
    spec = importlib.util.find_spec(own_name(fullname))
    assert spec is not None
    return spec.loader


def add_finder() -> None:
    """Find us under the other name, once something asks for it.  May be called again."""
    if not any(getattr(finder, 'stands_in', None) == OTHER_NAME for finder in sys.meta_path):
        sys.meta_path.insert(0, AliasFinder())


def install() -> None:
    """Let ``ZEO`` be us.  May be called again.  Raises ImportError if the real one is in use."""
    present = sys.modules.get(OTHER_NAME)
    own = sys.modules[OWN_NAME]
    if present is not None and present is not own:
        raise ImportError(
            f'the real ZEO has been imported already, from {getattr(present, "__file__", "?")}: call '
            f'{OWN_NAME}.install_as_ZEO() before anything imports ZEO')
    add_finder()
    importlib.import_module(OTHER_NAME)


# -- a whole environment --------------------------------------------------------------------------

def place() -> str:
    """Where the environment of this Python looks for ``.pth`` files: its directory of packages."""
    import sysconfig
    return os.path.join(sysconfig.get_path('purelib'), FILE_NAME)


def real_one() -> str | None:
    """``VERSION in DIRECTORY`` of the real ZEO, if the environment has it too."""
    from importlib import metadata
    try:
        found = metadata.distribution(OTHER_NAME)
    except metadata.PackageNotFoundError:
        return None
    return f'{found.version} in {found.locate_file("")}'


def switch_on(path: str) -> str:
    """Write the file `path`; what that means, in a sentence.  Raises ``OSError``."""
    with open(path, 'w', encoding='ascii') as file:
        file.write(LINE)
    real = real_one()
    hidden = f'; the real one ({real}) is hidden by that' if real else ''
    return (f'From now on "import ZEO" finds zeo_clone in this environment{hidden}. Processes that run '
            f'already go on as they are. To undo it: {sys.executable} -m zeo_clone.alias remove')


def switch_off(path: str) -> str:
    """Remove the file `path`; what that means, in a sentence.  Raises ``OSError``."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return f'Nothing to do: {path} is not there.'
    return f'From now on "import ZEO" finds {_otherwise()} in this environment.'


def state(path: str) -> str:
    """What ``import ZEO`` finds in a new process of this environment, in a sentence."""
    if os.path.exists(path):
        real = real_one()
        hidden = f'; the real one ({real}) is hidden' if real else ''
        return f'"import ZEO" finds zeo_clone, by {path}{hidden}.'
    return (f'"import ZEO" finds {_otherwise()}; with {sys.executable} -m zeo_clone.alias install it finds '
            'zeo_clone.')


def _otherwise() -> str:
    real = real_one()
    return f'the real ZEO {real}' if real else 'nothing'


ACTIONS = {'install': switch_on, 'remove': switch_off, 'status': state}


def command_line(prog: str = f'python -m {__name__}') -> Any:
    """The argparse parser of its options; nothing else here needs argparse."""
    import argparse
    parser = argparse.ArgumentParser(
        prog=prog, description='Let "import ZEO" find zeo_clone in the whole '
        'environment of this Python, for programs that were written for ZEO.')
    parser.add_argument('action', choices=list(ACTIONS))
    return parser


def main(args: Sequence[str] | None = None, prog: str = f'python -m {__name__}') -> int:
    """``install``, ``remove`` or ``status``.  Returns 0; 1 for a failure, or a status of not installed."""
    action = command_line(prog).parse_args(args).action
    path = place()
    try:
        print(ACTIONS[action](path))
    except OSError as error:
        print(f'cannot change {path}: {error.strerror}; do it as the user to whom this environment belongs, '
              'or in a virtual environment', file=sys.stderr)
        return 1
    return int(action == 'status' and not os.path.exists(path))


if __name__ == '__main__':
    sys.exit(main())
