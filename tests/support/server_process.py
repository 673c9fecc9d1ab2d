"""Servers in processes of their own, ours and real ZEO's, under one interface.

    with ServerProcess([{'kind': 'file', 'path': path}], transaction_timeout=2) as server:
        storage = ClientStorage(server.address)
        server.kill()
        server.restart()         # a new process at the same address

`PeerServer` is the same with real ZEO.  `ServerHost` is one process that starts and stops servers one
after another, for tests that need a fresh storage each but not a fresh process each.  Options are those
of ``serve.py``.  All of this belongs to one thread of the test.
"""
from __future__ import annotations

import socket
import sys
import weakref
from pathlib import Path
from typing import NamedTuple

from tests.support.json_process import STRICT, ChildError, JsonProcess, child_environment
from tests.support.peer_env import import_name, python_of
from tests.support.spawner import spawner

SERVE = Path(__file__).with_name('serve.py')
MAPPING = ({'kind': 'mapping'},)
ANY_PORT = ('127.0.0.1', 0)


def package_path():
    """The directory from which the zeo_clone under test is imported."""
    import zeo_clone
    return str(Path(zeo_clone.__file__).parent.parent)


def reserved_port(owner):
    """An address whose port is kept for servers of `owner`, as long as that lives.

    While no server listens there, the system could give the port to somebody who connects somewhere: a server
    could not be started there again.  Nobody gets a port that somebody has bound.
    """
    keeper = socket.socket()
    weakref.finalize(owner, keeper.close)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(ANY_PORT)
    return keeper.getsockname()


def address_of(reply):
    address = reply['address']
    return address if isinstance(address, str) else tuple(address)


class Served(NamedTuple):
    """One running server of a host: its number there and the address to connect to."""

    number: int
    address: object


class ServerHost:
    """A process in which servers are started and stopped.  A context manager; runs when made."""

    def __init__(self, package='zeo_clone', python=None):
        ours = package == 'zeo_clone'
        path = package_path() if ours else None
        spawn = None
        if python is None:
            python = sys.executable if ours else python_of(package)
            spawn = spawner(STRICT, child_environment(path)) if ours else None
        self.process = JsonProcess(SERVE, import_name(package), python=python, path=path, strict=ours,
                                   spawner=spawn)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stop()

    def start(self, storages=MAPPING, address=ANY_PORT, **options):
        """Start a server, return it as `Served`.  Raises ChildError with the reason if it cannot."""
        reply = self._call({'start': {'storages': storages, 'address': address, **options}})
        return Served(reply['server'], address_of(reply))

    def stop(self, served):
        """Close the server and its storages."""
        self._call({'stop': served.number})

    def plant(self, when, root, log, settings):
        """Have the process killed at a step from now on; see `mortal`."""
        self._call({'plant': {'when': when, 'root': str(root), 'log': str(log), 'settings': settings}})

    def _call(self, request):
        reply = self.process.call(request)
        if 'error' in reply:
            raise ChildError(f'{self.process!r}: {reply["error"]}; log:\n{self.process.log()}')
        return reply


class ServerProcess:
    """A server alone in its process.  Not started until `start` or ``with``."""

    default_package = 'zeo_clone'

    def __init__(self, storages=MAPPING, *, address=ANY_PORT, package=None, python=None, **options):
        self.address = reserved_port(self) if address == ANY_PORT else address
        self._package = package or self.default_package
        self._storages = storages
        self._options = options
        self._python = python
        self._host = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def __repr__(self):
        state = f'pid {self.pid}' if self._host else 'not running'
        return f'<{type(self).__name__} {self._package} at {self.address}, {state}>'

    @property
    def pid(self):
        return self._host.process.pid

    def log(self):
        """What the running process wrote to its log so far."""
        return self._host.process.log()

    def start(self):
        """Start the process; afterwards `address` is the one it listens at."""
        if self._host is not None:
            raise RuntimeError(f'{self!r} runs already')
        self._host = ServerHost(self._package, self._python)
        try:
            served = self._host.start(self._storages, self.address, **self._options)
        except BaseException:
            self.stop()
            raise
        self.address = served.address
        return self

    def stop(self):
        """End it in good order.  May be called twice.  Returns the exit status."""
        return self._end('stop')

    def terminate(self):
        """End it by SIGTERM.  Returns the exit status."""
        return self._end('terminate')

    def kill(self):
        """End it by SIGKILL."""
        return self._end('kill')

    def restart(self):
        """End it if it runs, and start a new process at the same address."""
        self.stop()
        return self.start()

    def _end(self, how):
        host, self._host = self._host, None
        return None if host is None else getattr(host.process, how)()


class PeerServer(ServerProcess):
    """The same with real ZEO, in the environment of its own that the tests make."""

    default_package = 'ZEO'
