"""Processes of servers that begin with their imports done: forked from one that has done nothing else.

To start Python and import a server takes a processor a third of a second, a fork a hundredth.  In all else
they are processes as others are: a memory, a log and an end of their own.  Linux only; without a `spawner`,
and for other packages and Pythons, there is `subprocess`.

In: requests with descriptors, through a socket, from any thread of the tests.  Out: a `Spawned` each.
"""
from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading

#: What a server may need, before it is asked for.
MODULES = ['zeo_clone.StorageServer', 'zeo_clone.ClientStorage', 'zeo_clone.commands.serve',
           'zeo_clone.configuration.filestorage', 'ZODB.FileStorage', 'ZODB.MappingStorage',
           'ZODB.DemoStorage', 'ZODB.blob', 'serve']
MAX_REQUEST = 1 << 20


class Spawned:
    """A process, as ``subprocess.Popen`` has it."""

    def __init__(self, pid, handle, stdin, stdout, news):
        self.pid = pid
        self.returncode = None
        self.stdin, self.stdout = open(stdin, 'wb'), open(stdout, 'rb')
        self._handle = handle  # of the process, whoever has its number by then
        self._news = open(news, 'rb')  # how it ended
        self._lock = threading.Lock()  # protects the end

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        with self._lock:
            if self.returncode is None:
                if not select.select([self._news], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(f'server {self.pid}', timeout)
                # Nothing is read if the spawner has been killed.
                self.returncode = int(self._news.read() or -signal.SIGKILL)
                self._news.close()
                os.close(self._handle)
            return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
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

    def spawn(self, arguments, environment, stderr):
        """A server with the command line `arguments` of ``serve.py``."""
        request = {'arguments': arguments, 'environment': environment, 'directory': os.getcwd()}
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as in_vain:
            (its_stdin, stdin), (stdout, its_stdout), (news, its_news) = (os.pipe() for _ in range(3))
            for descriptor in (its_stdin, its_stdout, its_news):
                stack.callback(os.close, descriptor)
            for descriptor in (stdin, stdout, news):
                in_vain.callback(os.close, descriptor)
            with self._lock:
                socket.send_fds(self._door, [json.dumps(request).encode()],
                                [its_stdin, its_stdout, stderr.fileno(), its_news])
                pid, handles, _, _ = socket.recv_fds(self._door, 100, 1)
            if not pid:
                raise RuntimeError('the process that servers are forked from has ended; stderr has why')
            in_vain.pop_all()
        return Spawned(int(pid), *handles, stdin, stdout, news)

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
                    return request['arguments']
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
        arguments = Parent(door).run()
    if arguments is not None:
        sys.modules['serve'].main(*arguments)


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
