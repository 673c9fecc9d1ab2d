"""Has this process killed (-9) at a step that was chosen before.

What a process leaves when it is killed is what it has written, renamed, removed and sent; the rest of it
was memory.  So each of these calls is a step, and so is a sync; and to be killed before each of them, and
half-way through what can be cut in two, is to be killed everywhere: between two neighbours nothing changes
that anybody could find.

    plant(7, '/tmp/test', '/tmp/log', {})   # at the seventh step from now on that concerns a file below
                                            # /tmp/test, or a TCP connection
    plant('fsync Data.fs', ...)             # at the first that is called so

In the log are the names of the steps that were reached, a line each, the last one that at which it died.
Linux only.  It refuses to know the tests, as `serve` does.
"""
from __future__ import annotations

import builtins
import importlib
import io
import os
import re
import signal
import socket
import sys
import threading
from functools import partial

from zeo_clone.loop.runtime import Runtime

#: Calls that change what is on the disk; a sync changes how long that lasts.
CALLS = ('rename', 'replace', 'remove', 'unlink', 'mkdir', 'rmdir', 'symlink', 'link', 'truncate')
#: Those of them whose second argument is the name that is new.
TO = ('rename', 'replace', 'symlink', 'link')
#: What a message may be about, to tell the steps from each other.
TOLD = re.compile(rb'invalidateTransaction|serialnos|info')
ASKED = re.compile(rb'tpc_begin|storea|storeBlob\w+|restorea|undoa|vote|tpc_finish|tpc_abort|pack|load\w*'
                   rb'|lastTransaction|ping|register|transaction_outcome')
#: Names that differ from run to run.
VARYING = [(re.compile(r'zeo-[0-9a-f]{24}\.'), '*.'), (re.compile(r'0x[0-9a-f]{16}\.blob'), '*.blob'),
           (re.compile(r'^tmp[a-z0-9_]{8}$'), 'tmp*'), (re.compile(r'^undo-[0-9a-f]{24}$'), 'undo-*'),
           (re.compile(r'^0x[0-9a-f]{2}$'), 'of an oid')]

_os_write, _open = os.write, builtins.open
_reapers = []


class Reaper:
    """Counts steps; at one of them the process dies."""

    def __init__(self, root):
        self._root = os.path.join(root, '')
        self._lock = threading.RLock()  # protects the count: one step at a time
        self._log = self._when = None
        self._count = 0

    def begin(self, when, log):
        """Count from here; `when` is a number or a name."""
        with self._lock:
            if self._log is not None:
                os.close(self._log)
            self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            self._when, self._count = when, 0

    def concerns(self, path):
        return isinstance(path, str) and os.path.abspath(path).startswith(self._root)

    def step(self, what, path=''):
        """Die here if it is time."""
        if self._is_time(what, path):
            os.kill(os.getpid(), signal.SIGKILL)

    def half(self, function, what, path, data):
        """Call `function` with `data`; or only with half of that, and die."""
        with self._lock:
            self.step(what, path)
            if len(data) > 1 and self._is_time(f'half of {what}', path):
                function(bytes(data[:len(data) // 2]))
                os.kill(os.getpid(), signal.SIGKILL)
            return function(data)

    def _is_time(self, what, path):
        with self._lock:
            self._count += 1
            name = f'{what} {short(path)}'.rstrip()
            _os_write(self._log, name.encode() + b'\n')
            return self._when in (self._count, name)


def short(path):
    """What a file is, rather than which one."""
    name = os.path.basename(path.rstrip('/'))
    for pattern, kind in VARYING:
        name = pattern.sub(kind, name)
    return name


class File(io.FileIO):
    """A file each of whose writes is a step."""

    def __init__(self, reaper, path, file, mode):
        super().__init__(file, mode)
        self._reaper = reaper
        self._path = path

    def write(self, data):
        data = memoryview(data).cast('B')
        what = 'write' if len(data) > 1 else 'write a byte of'
        return self._reaper.half(super().write, what, self._path, data)

    def truncate(self, size=None):
        self._reaper.step('truncate', self._path)
        return super().truncate(size)


def plant(when, root, log, settings):
    """From now on: see above.  `settings` of modules: ``{'package.module.NAME': value}``."""
    for place, value in settings.items():
        module, _, name = place.rpartition('.')
        setattr(importlib.import_module(module), name, value)
    if _reapers:
        _reapers[0].begin(when, log)
        return
    reaper = Reaper(root)
    _reapers.append(reaper)
    reaper.begin(when, log)
    for name in CALLS:
        _replace(getattr(os, name), partial(_call, reaper, name, getattr(os, name)))
    _replace(os.fsync, partial(_fsync, reaper, os.fsync))
    _replace(_open, partial(_open_file, reaper))
    _watch_sockets(reaper)


def _replace(function, by):
    """Wherever a module, or our seam, has it."""
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is function and module is not sys.modules[__name__]:
                setattr(module, name, by)
    for name, value in list(vars(Runtime).items()):
        if isinstance(value, staticmethod) and value.__func__ is function:
            setattr(Runtime, name, staticmethod(by))


def _call(reaper, name, function, path, *args, **keywords):
    place = args[0] if name in TO else path
    if reaper.concerns(place) and 'dir_fd' not in keywords:
        reaper.step(name, place)
    return function(path, *args, **keywords)


def _fsync(reaper, fsync, fd):
    path = os.readlink(f'/proc/self/fd/{fd}')
    if reaper.concerns(path):
        reaper.step('fsync', path)
    fsync(fd)


def _open_file(reaper, file, mode='r', buffering=-1, *args, **keywords):
    path = os.readlink(f'/proc/self/fd/{file}') if isinstance(file, int) else file
    if not reaper.concerns(path) or not set(mode) & set('wxa+'):
        return _open(file, mode, buffering, *args, **keywords)
    if 'w' in mode or 'x' in mode:
        reaper.step('make', path)
    if 'b' not in mode:
        return _open(file, mode, buffering, *args, **keywords)
    raw = File(reaper, path, file, mode.replace('b', ''))
    if buffering == 0:
        return raw
    return io.BufferedRandom(raw) if '+' in mode else io.BufferedWriter(raw)


def _watch_sockets(reaper):
    asked = {}  # by descriptor: the last call that came

    send, recv = socket.socket.send, socket.socket.recv

    def watched_send(sock, data, *flags):
        if sock.family != socket.AF_INET:
            return send(sock, data, *flags)
        if b'.reply' in bytes(data):
            about = f'reply to {asked.get(sock.fileno(), "?")}'
        else:
            about = b' '.join((TOLD.findall(data) or ASKED.findall(data))[-1:]).decode()
        return reaper.half(lambda part: send(sock, part, *flags), 'send', about, data)

    def watched_recv(sock, *args):
        data = recv(sock, *args)
        found = ASKED.findall(data)
        if found:
            asked[sock.fileno()] = found[-1].decode()
        return data

    socket.socket.send, socket.socket.recv = watched_send, watched_recv
