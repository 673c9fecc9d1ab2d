"""The house keeps its floors: reads the imports of every module, runs none of them."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parent.parent / 'zeo_clone'

#: Room or module, from the first name that fits: its floor.  Everything else is on floor 5.
FLOORS = {
    'Exceptions': 0, 'interfaces': 0, 'addresses': 0, 'steps': 0, 'wording': 0,
    'thresholds': 0, 'troubles': 0, 'version': 0,
    'loop': 1,
    'zrpc.channel': 3, 'zrpc': 2,
    'cache': 3,
    'client': 4, 'ClientStorage': 4,
    'server': 4, 'StorageServer': 4,
}
TOP_FLOOR = 5
#: The faces belong to the rooms behind them; the vocabulary is one room.
ROOMS = {'ClientStorage': 'client', 'StorageServer': 'server',
         'Exceptions': 'vocabulary', 'interfaces': 'vocabulary', 'addresses': 'vocabulary',
         'steps': 'vocabulary', 'wording': 'vocabulary',
         'thresholds': 'vocabulary', 'troubles': 'vocabulary',
         'version': 'vocabulary'}

#: Rooms of the top floor that know only these there.  The package itself has the version.
KNOWN_ON_TOP = {'configuration': {'configuration', 'monitor', ''}, 'monitor': {'monitor', ''}}
#: The commands that the server's process has; all others are tools.
SERVING = {'commands.serve', 'commands.startup', 'commands.process', 'commands.options',
           'commands.tlsoptions'}

_OUT_OF_WINGS = {'server.served', 'server.server', 'StorageServer'}
#: Wing of the server: rooms and modules of ours that it does not know.
WINGS = {
    'server.backend': {'server.commits', 'server.audience', 'server.clients', 'zrpc.channel', *_OUT_OF_WINGS},
    'server.commits': {'server.audience', 'server.clients', 'zrpc.channel', 'zrpc.connection',
                       'loop.transport', 'loop.dispatcher', 'loop.poller', *_OUT_OF_WINGS},
    'server.audience': {'server.backend', 'server.commits', 'server.clients', 'zrpc.channel', *_OUT_OF_WINGS},
    'server.clients': {'server.backend.commit', 'server.backend.backend', 'server.commits.phases',
                       'server.commits.lock', 'server.commits.operations', 'server.commits.outcomes',
                       *_OUT_OF_WINGS},
}

#: Modules that the examples below import.
PLAN = {
    'loop', 'loop.poller', 'loop.runtime', 'loop.stream', 'zrpc', 'zrpc.frames', 'zrpc.connection',
    'zrpc.channel', 'cache', 'client', 'client.link', 'server', 'server.session', 'ClientStorage',
    'StorageServer', 'interfaces', 'Exceptions', 'zconfig', 'runzeo', 'commands.serve',
    'configuration.zconfig', 'configuration.tlsfiles', 'monitor', 'monitor.web',
}
PACKAGES = {'', 'zrpc', 'cache', 'client', 'server'}

OUTSIDE_WORLD = {'time', 'socket', 'select', 'selectors', 'threading', '_thread', 'random'}
NOT_IN_ZRPC = {'socket', 'ssl', 'select', 'selectors', 'threading', 'time'}
#: What of the loop the cache may use: neither has heard of a network.
CACHE_NEEDS = {'loop.runtime', 'loop.throttle'}
NOWHERE = {'asyncio', 'asyncore', 'asynchat', 'socketserver'}

#: On floors 1 to 4 what has an effect on the world, or asks it something, is a door of `loop.runtime`.  This
#: is what is left of `os`: it only computes, or names a type or a number.
OF_OS = {'os.path.basename', 'os.path.dirname', 'os.path.join', 'os.path.normpath', 'os.path.relpath',
         'os.path.samestat', 'os.fspath', 'os.strerror', 'os.PathLike', 'os.SEEK_END'}
OF_EFFECT = {'atexit', 'ctypes', 'fcntl', 'glob', 'pathlib', 'resource', 'shutil', 'signal', 'subprocess',
             'tempfile'}
#: Functions of other modules, and of Python itself.  And what is walked in the order of memory addresses.
NAMES_OF_EFFECT = {'newTid', 'utcnow', 'uuid1', 'uuid4', 'WeakSet'}
CHAINS_OF_EFFECT = {'datetime.now', 'datetime.datetime.now', 'date.today', 'datetime.date.today', 'io.open'}
BUILTINS_OF_EFFECT = {'input', 'open'}


def module_name(path, package=PACKAGE):
    """The dotted name within zeo_clone: of a package, its directory; empty for zeo_clone itself."""
    parts = path.relative_to(package).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob('*.py'))}


def is_in(module, room):
    return module == room or module.startswith(room + '.')


def floor(module):
    return next((number for room, number in FLOORS.items() if is_in(module, room)), TOP_FLOOR)


def room(module):
    first = module.partition('.')[0]
    return ROOMS.get(first, first)


def only_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith('TYPE_CHECKING')


def import_statements(node):
    """All import statements below `node`, also those in functions, but not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not only_for_types(child):
            yield from import_statements(child)


def imported(module, source, modules, is_package):
    """Absolute dotted names of the modules that `source` imports, down to submodules that are known."""
    for node in import_statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        base = node.module or ''
        if node.level:
            here = ['zeo_clone', *filter(None, module.split('.'))]
            up = node.level - (1 if is_package else 0)
            base = '.'.join(here[:len(here) - up] + ([node.module] if node.module else []))
        for alias in node.names:
            name = f'{base}.{alias.name}'
            known = is_in(base, 'zeo_clone') and name.removeprefix('zeo_clone.') in modules
            yield name if known else base


def violations(module, source, modules=MODULES, is_package=False):
    """What `source`, as the module `module`, imports against the rules, in words."""
    found = []
    for name in imported(module, source, modules, is_package):
        if is_in(name, 'zeo_clone'):
            ours = name.removeprefix('zeo_clone').removeprefix('.')
            found += _against_floors(module, ours)
        else:
            found += _against_rooms(module, name.partition('.')[0])
    return found


def _against_floors(module, ours):
    if floor(module) == TOP_FLOOR:
        known = KNOWN_ON_TOP.get(room(module))
        if known is not None and floor(ours) == TOP_FLOOR and room(ours) not in known:
            yield f'{room(module)} serves commands and knows none: {module} imports {ours}'
        return
    if floor(ours) > floor(module) or floor(ours) == floor(module) and room(ours) != room(module):
        yield f'{module} (floor {floor(module)}) imports {ours or "zeo_clone"} (floor {floor(ours)})'
    if is_in(module, 'loop') and not is_in(ours, 'loop'):
        yield f'loop has never heard of ZEO: {module} imports {ours}'
    if is_in(module, 'zrpc') and not is_in(module, 'zrpc.channel') and is_in(ours, 'loop'):
        yield f'zrpc does no input and output: {module} imports {ours}'
    in_cache = is_in(ours, 'cache') or ours in CACHE_NEEDS or floor(ours) == 0
    for wing, unknown in WINGS.items():
        if is_in(module, wing) and any(is_in(ours, other) for other in unknown):
            yield f'{wing} does not know {ours}: {module} imports it'
    if is_in(module, 'cache') and not in_cache:
        yield f'the cache knows no network: {module} imports {ours}'


def _against_rooms(module, name):
    if name in NOWHERE:
        yield f'{module} imports {name}'
    if name in OUTSIDE_WORLD and module != 'loop.runtime':
        yield f'{module} imports {name}: only loop.runtime does'
    if name in NOT_IN_ZRPC and is_in(module, 'zrpc') and not is_in(module, 'zrpc.channel'):
        yield f'zrpc does no input and output: {module} imports {name}'
    if name == 'argparse' and room(module) not in ('commands', 'alias'):
        yield f'{module} imports argparse: only commands do'
    if name == 'ssl' and not (is_in(module, 'loop') or module == 'configuration.tlsfiles'):
        yield f'{module} imports ssl: only loop and configuration.tlsfiles do'


@pytest.mark.parametrize('module', MODULES)
def test_module_imports_nothing_against_the_rules(module):
    path = MODULES[module]
    source = path.read_text(encoding='utf-8')
    assert violations(module, source, is_package=path.name == '__init__.py') == []


class Effects(ast.NodeVisitor):
    """What a module does to the world, or asks of it, beside the seam: ``found``."""

    def __init__(self, source):
        self.found = []
        self.visit(ast.parse(source))

    def visit_Import(self, node):
        self.found += [alias.name for alias in node.names if alias.name.partition('.')[0] in OF_EFFECT]

    def visit_ImportFrom(self, node):
        module = '' if node.level else node.module or ''
        if module.partition('.')[0] in OF_EFFECT | {'os', 'io'}:
            self.found.append(module)
        self.found += [alias.name for alias in node.names if alias.name in NAMES_OF_EFFECT]

    def visit_Attribute(self, node):
        name = dotted(node)
        if name.startswith('os.'):
            self.found += {name} - OF_OS
            return
        if node.attr in NAMES_OF_EFFECT or name in CHAINS_OF_EFFECT:
            self.found.append(node.attr)
        self.generic_visit(node)

    def visit_Name(self, node):
        if node.id in BUILTINS_OF_EFFECT:
            self.found.append(node.id)


def dotted(node):
    """``a.b.c`` as text; empty if it is anything else."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f'{base}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else ''


@pytest.mark.parametrize('module', [name for name in MODULES if 0 < floor(name) < TOP_FLOOR])
def test_nothing_goes_past_the_seam(module):
    """All that touches the world can be done by another runtime: files too, and where tids come from."""
    if module != 'loop.runtime':
        found = Effects(MODULES[module].read_text(encoding='utf-8')).found
        assert set(found) == set()


@pytest.mark.parametrize('source', [
    'import os\nos.stat(path).st_size', 'import os\nos.path.exists(path)', 'import os\nos.getcwd()',
    'import os\nx = os.environ["X"]', 'import os.path\nf = os.path.isdir', 'from os import rename',
    'from os.path import exists', 'def f():\n    import shutil', 'from tempfile import mkstemp',
    'with open(path) as file: pass', 'f(open)', 'import io\nio.open(path)', 'from io import open',
    'import datetime\ndatetime.datetime.now()', 'from uuid import uuid4', 'from ZODB.utils import newTid',
    'import ZODB.utils\nZODB.utils.newTid(None)', 'import weakref\nseen = weakref.WeakSet()',
])
def test_what_goes_past_the_seam_is_found(source):
    assert Effects(source).found


@pytest.mark.parametrize('module', MODULES)
def test_no_text_is_made_of_a_process_id(module):
    """C26: nor asks anybody whether a process lives; but for what is about processes."""
    tree = ast.parse(MODULES[module].read_text(encoding='utf-8'))
    texts = [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.BinOp))]
    used = any('getpid' in ast.unparse(text) for text in texts)
    assert not used or module == 'commands.process', 'it writes the file of the process id'
    asked = 'os.kill' in ast.unparse(tree)
    assert not asked or module == 'commands.startup', 'it tells who has a file open'


def test_the_server_starts_without_any_tool():
    script = ('import sys; import zeo_clone.commands.serve, zeo_clone.StorageServer; '
              'print(*(name for name in sys.modules if name.startswith("zeo_clone.")))')
    done = subprocess.run([sys.executable, '-W', 'error', '-c', script], cwd=PACKAGE.parent, text=True,
                          capture_output=True, check=True)
    loaded = {name.removeprefix('zeo_clone.') for name in done.stdout.split()}
    assert 'server.server' in loaded
    assert {module for module in loaded if module.startswith('commands.')} == SERVING


@pytest.mark.parametrize('room_name', sorted({name for name in FLOORS if '.' not in name}))
def test_every_room_of_the_plan_is_there(room_name):
    """Otherwise a renamed room would silently move to the top floor, where everything is allowed."""
    assert room_name in MODULES


@pytest.mark.parametrize(('module', 'source'), [
    ('loop.poller', 'import zeo_clone.Exceptions'),
    ('loop.poller', 'from zeo_clone import interfaces'),
    ('loop.poller', 'from ..zrpc import frames'),
    ('loop.poller', 'import time'),
    ('loop.poller', 'from select import epoll'),
    ('zrpc.frames', 'from zeo_clone.loop import runtime'),
    ('zrpc.frames', 'import zeo_clone.loop.runtime'),
    ('zrpc.frames', 'from zeo_clone.zrpc import channel'),
    ('zrpc.frames', 'from . import channel'),
    ('zrpc.frames', 'import ssl'),
    ('zrpc.frames', 'def f():\n    import socket'),
    ('zrpc', 'import threading'),
    ('zrpc.channel', 'import socket'),
    ('zrpc.channel', 'from zeo_clone.cache import ClientCache'),
    ('cache', 'from zeo_clone.zrpc import frames'),
    ('cache', 'from zeo_clone.loop import poller'),
    ('cache', 'from zeo_clone import client'),
    ('client.link', 'from zeo_clone.server import session'),
    ('client.link', 'from zeo_clone import StorageServer'),
    ('ClientStorage', 'import zeo_clone.server'),
    ('server.session', 'from ..client import link'),
    ('server.session', 'import zeo_clone.ClientStorage'),
    ('server', 'from zeo_clone.runzeo import main'),
    ('server.backend.guard', 'from zeo_clone.server.clients import session'),
    ('server.backend.guard', 'from zeo_clone.server.served import ServedStorage'),
    ('server.commits.phases', 'from zeo_clone.server.clients.session import Session'),
    ('server.commits.phases', 'from zeo_clone.zrpc.channel import memory'),
    ('server.audience.audience', 'from zeo_clone.server.backend.backend import Backend'),
    ('server.audience.audience', 'from ..commits import lock'),
    ('server.clients.methods', 'from zeo_clone.server.commits.phases import Idle'),
    ('server', 'from zeo_clone import zconfig'),
    ('client', 'from zeo_clone import DB'),
    ('client', 'import random'),
    ('client', 'import ssl'),
    ('runzeo', 'import socket'),
    ('runzeo', 'import asyncio'),
    ('configuration.zconfig', 'from zeo_clone.commands import serve'),
    ('configuration.zconfig', 'import argparse'),
    ('monitor.web', 'from zeo_clone.configuration import zconfig'),
    ('monitor.web', 'from zeo_clone import runzeo'),
    ('Exceptions', 'from zeo_clone import interfaces, loop'),
])
def test_an_arrow_that_goes_up_is_found(module, source):
    assert violations(module, source, PLAN, is_package=module in PACKAGES)


@pytest.mark.parametrize(('module', 'source'), [
    ('loop.runtime', 'import time, socket, select, selectors, threading, random'),
    ('loop.stream', 'import ssl\nfrom .poller import Poller\nfrom . import runtime'),
    ('zrpc.connection', 'from zeo_clone.zrpc import frames\nfrom zeo_clone import Exceptions'),
    ('zrpc.channel', 'from zeo_clone.loop.stream import Stream\nfrom zeo_clone.zrpc import connection'),
    ('cache', 'from zeo_clone.loop.runtime import REAL\nfrom zeo_clone.interfaces import IClientCache'),
    ('client.link', 'from zeo_clone.zrpc import channel\nfrom zeo_clone import cache, interfaces'),
    ('ClientStorage', 'from zeo_clone.client.link import Link'),
    ('StorageServer', 'from zeo_clone.server import session'),
    ('server.commits.phases', 'from zeo_clone.server.backend.commit import StorageCommit'),
    ('server.clients.member', 'from zeo_clone.server.commits.transactor import Transactor'),
    ('server.served', 'from zeo_clone.server.backend import backend\nfrom .clients import session'),
    ('runzeo', 'from zeo_clone import StorageServer, zconfig'),
    ('configuration.tlsfiles', 'import ssl'),
    ('configuration.zconfig', 'from zeo_clone.configuration import tlsfiles'),
    ('commands.serve', 'import argparse\nfrom zeo_clone.configuration import zconfig'),
    ('', 'from . import ClientStorage, StorageServer'),
    ('client.link', 'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import threading'),
])
def test_an_arrow_that_goes_down_is_allowed(module, source):
    assert violations(module, source, PLAN, is_package=module in PACKAGES) == []


# ---- locks ----------------------------------------------------------------------------------------

LOCK = re.compile(r'self\.\w+ = .*(runtime\.(r?lock|condition)|ProcessLock)\(')


def unexplained(lines):
    """Lines that make a lock in ``__init__`` and do not say, there or above, what it protects: by its name,
    not by how many lines follow."""
    method = before = ''
    for line in lines:
        if line.lstrip().startswith('def '):
            method = line
        if LOCK.search(line) and '__init__' in method:
            said = line.partition('#')[2] or before.lstrip()[:1] == '#' and before or ''
            if not re.search('(?i)protects|held ', said) or re.search('the (next|fields)|below', said):
                yield line.strip()
        before = line


def test_each_lock_says_what_it_protects():
    found = [f'{name}: {line}' for name, path in MODULES.items()
             for line in unexplained(path.read_text(encoding='utf-8').splitlines())]
    assert found == []


def test_what_an_unexplained_lock_is():
    lines = ['def __init__(self, runtime):', '# protects a', 'self.a = runtime.lock()',
             'self.b = runtime.rlock()  # held while b', 'self.c = runtime.lock()',
             'self.d = runtime.lock()  # protects the next two', 'self.e = ProcessLock(runtime)  # a lock',
             'def orphan(self):', 'self.a = runtime.lock()']
    assert [line[5] for line in unexplained(lines)] == ['c', 'd', 'e']
