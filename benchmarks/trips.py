"""How far a load and a commit travel through the code, and how the house hangs together.

    python -m benchmarks.trips [--names]

A server, a client that commits and one that is told live in this process, and every call of a function of the
package is written down.  For each thread: calls, functions, files, changes from one file to another;
``--names`` prints the calls in their order.  Then, read from the source: imports between rooms, and circles
of imports.
"""
from __future__ import annotations

import argparse
import ast
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, z64

import zeo_clone

PACKAGE = Path(zeo_clone.__file__).parent
#: A trip is over when nothing of the package was called for so long, in seconds.
QUIET_S = 0.2


class Step(NamedTuple):
    """One call."""

    thread: str
    file: str
    function: str
    line: int


class Follower:
    """Writes down the calls of functions of the package, in all threads that start after it."""

    def __init__(self):
        self.steps = []
        self._following = False
        self._names = {}
        self._root = f'{PACKAGE}/'
        threading.setprofile(self._called)
        sys.setprofile(self._called)

    def follow(self, work):
        """The steps that `work` leads to."""
        self.steps = []
        self._following = True
        work()
        count = -1
        while count != len(self.steps):
            count = len(self.steps)
            time.sleep(QUIET_S)
        self._following = False
        return self.steps

    def close(self):
        threading.setprofile(None)
        sys.setprofile(None)

    def _called(self, frame, event, argument):
        if self._following and event == 'call' and frame.f_code.co_filename.startswith(self._root):
            code, thread = frame.f_code, threading.current_thread().name
            name = getattr(code, 'co_qualname', code.co_name)  # before Python 3.11 without its class
            self.steps.append(Step('server' if thread.startswith('zeo-server') else thread,
                                   code.co_filename[len(self._root):-len('.py')], name, code.co_firstlineno))


class Trip(NamedTuple):
    """The steps of one thing that a client did."""

    name: str
    steps: list[Step]

    @property
    def files(self):
        """How many files it touches."""
        return len({step.file for step in self.steps})

    def threads(self):
        """Name of the thread, and its steps."""
        for thread in dict.fromkeys(step.thread for step in self.steps):
            yield thread, [step for step in self.steps if step.thread == thread]

    def lines(self, names=False):
        """What is printed."""
        yield f'{self.name}: {self.files} files'
        for thread, steps in self.threads():
            changes = sum(a.file != b.file for a, b in zip(steps, steps[1:], strict=False))
            yield (f'    {thread}: {len(steps)} calls of {len({step[1:] for step in steps})} functions in '
                   f'{len({step.file for step in steps})} files, {changes} changes of file')
            if names:
                yield '        ' + ' > '.join(f'{step.file}:{step.function}' for step in steps)


def trips():
    """A cold load, a warm one, and a commit."""
    follower = Follower()
    try:
        return list(_trips(follower))
    finally:
        follower.close()


def _trips(follower):
    from zeo_clone.ClientStorage import ClientStorage
    from zeo_clone.StorageServer import StorageServer
    database = SimpleNamespace(invalidate=lambda *args: None, invalidateCache=lambda: None,
                               transform_record_data=bytes, untransform_record_data=bytes)
    server = StorageServer(('127.0.0.1', 0), {'1': MappingStorage()})
    server.start_thread()
    try:
        one, other = ClientStorage(server.addr), ClientStorage(server.addr)
        try:
            for storage in one, other:
                storage.registerDB(database)
            tid = _commit(one, p64(1), z64)
            while other.lastTransaction() != tid:
                other.ping()
            follower.follow(lambda: None)  # what is left to be done of the beginning
            for name in 'cold load', 'first warm load', 'warm load':
                yield Trip(name, follower.follow(lambda: other.loadBefore(p64(1), maxtid)))
            yield Trip('commit of one object, another client is told',
                       follower.follow(lambda: _commit(one, p64(1), tid)))
        finally:
            one.close()
            other.close()
    finally:
        server.close()


def _commit(storage, oid, serial):
    transaction = TransactionMetaData(b'user', b'note')
    storage.tpc_begin(transaction)
    storage.store(oid, serial, b'x' * 100, '', transaction)
    storage.tpc_vote(transaction)
    return storage.tpc_finish(transaction, lambda tid: None)


# ---- the house ------------------------------------------------------------------------------------

def module_name(path):
    """The dotted name within the package; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports():
    """``{module: modules that it imports when it is imported}``."""
    paths = {module_name(path): path for path in sorted(PACKAGE.rglob('*.py'))}
    return {module: {name for name in _imported(ast.parse(path.read_text('utf-8')).body, paths)
                     if name != module} for module, path in paths.items()}


def _imported(body, modules):
    for node in body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            names = []
        for name in names:
            ours = name.removeprefix('zeo_clone.')
            while ours != name and ours and ours not in modules:
                ours = ours.rpartition('.')[0]
            if ours != name and ours:
                yield ours


def between_rooms(graph):
    """How many modules of one room import from another: ``{(room, other room): count}``."""
    return Counter((module.partition('.')[0] or 'zeo_clone', name.partition('.')[0])
                   for module, names in graph.items() for name in names
                   if module.partition('.')[0] != name.partition('.')[0])


def circles(graph):
    """Sets of modules that import each other, in a circle."""
    reached = {module: _reach(graph, module) for module in graph}
    found = {frozenset({module, *(name for name in names if module in reached[name])})
             for module, names in reached.items() if module in names}
    return sorted(map(sorted, found))


def _reach(graph, module):
    seen, todo = set(), [module]
    while todo:
        for name in graph[todo.pop()] - seen:
            seen.add(name)
            todo.append(name)
    return seen


def main(arguments=None):
    """The command."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.trips',
                                     description=__doc__.partition('\n')[0])
    parser.add_argument('--names', action='store_true', help='print the calls in their order')
    options = parser.parse_args(arguments)
    for trip in trips():
        print('\n'.join(trip.lines(options.names)))
    graph = imports()
    print(f'{len(graph)} modules; imports between rooms:')
    for (room, other), count in sorted(between_rooms(graph).items()):
        print(f'    {room} -> {other}: {count}')
    for circle in circles(graph):
        print(f'a circle: {", ".join(circle)}')


if __name__ == '__main__':
    main()
