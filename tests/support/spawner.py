"""Processes of servers and commands that begin with their imports done: forked from one that has done nothing
else.

To start Python and import a server takes a processor a third of a second, a fork a hundredth.  In all else
they are processes as others are: a memory, a log and an end of their own.  Linux only; without a `spawner`,
and for other packages, Pythons and command lines, there is `subprocess`.

In: requests with descriptors, through a socket, from any thread of the tests.  Out: a `Spawned` each.
"""
from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings

#: What a server or a command may need, before it is asked for.
MODULES = ['zeo_clone.StorageServer', 'zeo_clone.ClientStorage', 'zeo_clone.commands.serve',
           'zeo_clone.commands.status', 'zeo_clone.configuration.filestorage',
           'zeo_clone.configuration.zconfig', 'ZODB.FileStorage', 'ZODB.MappingStorage',
           'ZODB.DemoStorage', 'ZODB.blob', 'serve']
MAX_REQUEST = 1 << 20


class Spawned:
    """A process, as ``subprocess.Popen`` has it."""

    def __init__(self, pid, handle, news):
        self.pid = pid
        self.returncode = None
        self._handle = handle  # of the process, whoever has its number by then
        self._news = open(news, 'rb')  # how it ended
        self._lock = threading.Lock()  # protects the end

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        with contextlib.suppress(ValueError):  # somebody else has seen its end meanwhile
            if self.returncode is None and not select.select([self._news], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f'process {self.pid}', timeout)
        with self._lock:
            if self.returncode is None:
                # Nothing is read if the spawner has been killed.
                self.returncode = int(self._news.read() or -signal.SIGKILL)
                self._news.close()
                os.close(self._handle)
            return self.returncode

    def send_signal(self, number):
        with self._lock, contextlib.suppress(ProcessLookupError):  # it has ended
            if self.returncode is None:
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Spawner:
    """Starts a process from which others are forked; `options` are Python's, `environment` is for both."""

    def __init__(self, options, environment):
        self._lock = threading.Lock()  # protects a request and its answer from others
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *options, __file__, str(theirs.fileno())], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self.pid = self._process.pid

    def spawn(self, arguments, environment, stdin, stdout, stderr, *, module=None, filters=(),
              directory=None):
        """A server with the command line `arguments` of ``serve.py``, or ``python -m module arguments`` with
        the `filters` of ``-W``.  It gets copies of the three descriptors."""
        request = {'module': module, 'arguments': arguments, 'filters': filters, 'environment': environment,
                   'directory': directory or os.getcwd()}
        news, its_news = os.pipe()
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as in_vain:
            stack.callback(os.close, its_news)
            in_vain.callback(os.close, news)
            with self._lock:
                socket.send_fds(self._door, [json.dumps(request).encode()],
                                [stdin, stdout, stderr, its_news])
                pid, handles, _, _ = socket.recv_fds(self._door, 100, 1)
            if not pid:
                raise RuntimeError('the process that servers are forked from has ended; stderr has why')
            in_vain.pop_all()
        return Spawned(int(pid), *handles, news)

    def close(self):
        self._door.close()
        self._process.wait()


class Parent:
    """The process that forks.  One thread."""

    def __init__(self, door):
        self._door = door
        self._children = {}  # pid: where to tell its end
        self._alarm, alarm = os.pipe()
        os.set_blocking(alarm, False)
        signal.set_wakeup_fd(alarm)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self):
        """Fork when asked to; in a child, what it is to do.  None when there is nobody to ask any more."""
        while True:
            ready, _, _ = select.select([self._door, self._alarm], [], [])
            if self._alarm in ready:
                os.read(self._alarm, 4096)
                self._reap()
            if self._door in ready:
                message, descriptors, _, _ = socket.recv_fds(self._door, MAX_REQUEST, 4)
                if not message:
                    return None
                request = json.loads(message)
                pid = os.fork()
                if not pid:
                    self._become(request, descriptors[:3])
                    return request
                self._answer(pid, descriptors)

    def _answer(self, pid, descriptors):
        *its_own, self._children[pid] = descriptors
        handle = os.pidfd_open(pid)
        socket.send_fds(self._door, [b'%d' % pid], [handle])
        for descriptor in (*its_own, handle):
            os.close(descriptor)

    def _reap(self):
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            news = self._children.pop(pid)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it
                os.write(news, b'%d' % os.waitstatus_to_exitcode(status))
            os.close(news)

    def _become(self, request, descriptors):
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._door.detach()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, os.sysconf('SC_OPEN_MAX'))
        os.chdir(request['directory'])
        os.environ.clear()
        os.environ.update(request['environment'])


def main(descriptor):
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=int(descriptor)) as door:
        request = Parent(door).run()
    if request is None:
        return
    if not request['module']:
        sys.modules['serve'].main(*request['arguments'])
        return
    for option in request['filters']:
        action, _, category = option.partition('::')
        warnings.simplefilter(action, getattr(builtins, category or 'Warning'))
    sys.warnoptions[:] = request['filters']
    sys.argv[1:] = request['arguments']
    sys.path[0] = os.getcwd()
    sys.modules.pop(request['module'], None)  # it is not imported, but run
    runpy.run_module(request['module'], run_name='__main__', alter_sys=True)


#: The one of this process, once it was needed.
_spawners: list[Spawner] = []


def spawner(options, environment):
    """The spawner of this process, or None if there can be none."""
    if not hasattr(os, 'pidfd_open') or not hasattr(socket, 'send_fds'):
        return None
    if not _spawners:
        _spawners.append(Spawner(options, environment))
    return _spawners[0]


def pids():
    """The process ids of spawners."""
    return [running.pid for running in _spawners]


def close():
    """At the end of the tests."""
    while _spawners:
        _spawners.pop().close()


if __name__ == '__main__':
    main(*sys.argv[1:])
