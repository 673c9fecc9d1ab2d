"""runzeo as its users run it: a process, its log on stderr, signals, an exit code.

    with Runzeo('-a', '127.0.0.1:0', '-f', path) as server:
        storage = ClientStorage(server.address)
        assert server.stop(signal.SIGTERM) == 0

Belongs to one thread of the test, apart from a timer that ends a process that hangs.
"""
from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading

from tests.support.json_process import UNCAUGHT
from tests.support.tool_process import start_tool
from zeo_clone.addresses import parse_address
from zeo_clone.ClientStorage import ClientStorage

LIMIT_S = 600  # only a process that hangs meets it
SERVING = re.compile(r"serving storage '(?P<name>.*)' \((?P<storage>.*)\) at (?P<address>\S+)$")
MODULE = (sys.executable, '-X', 'faulthandler', '-W', 'error', '-m', 'zeo_clone.runzeo')


class Runzeo:
    """A running runzeo.  A context manager; runs when made; `ready` waits until it serves.

    `command` is what to run in place of a runzeo that begins with its imports done, `cwd` where;
    `environment` adds to our own.
    """

    def __init__(self, *arguments, command=None, cwd=None, path=None, limit_s=LIMIT_S, **environment):
        self.storages = {}  # {name: what getName() said}, in the order served
        self.address = None
        self._lines = []
        self._output = ''  # all of it, at the end
        self._stdout = tempfile.TemporaryFile('w+')
        stderr, its_stderr = os.pipe()
        self._stderr = open(stderr)
        try:
            with open(its_stderr, 'w') as its_own:
                self._process = start_tool('runzeo', arguments, self._stdout, its_own, cwd=cwd,
                                           command=command, path=path, environment=environment)
        except BaseException:
            self._stdout.close()
            self._stderr.close()
            raise
        self._limit = threading.Timer(limit_s, self._process.kill)
        self._limit.daemon = True
        self._limit.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.returncode is None:
            self._process.kill()
            self.result()

    @property
    def pid(self):
        return self._process.pid

    @property
    def log(self):
        """What was read of stderr so far."""
        return ''.join(self._lines)

    def read_until(self, text):
        """Read stderr up to the first line with `text`, which is returned."""
        for line in self._stderr:
            self._lines.append(line)
            if found := SERVING.search(line):
                self.storages[found['name']] = found['storage']
                self.address = parse_address(found['address'])
            if text in line:
                return line
        raise AssertionError(f'runzeo ended without saying {text!r}; it said:\n{self.log}')

    def ready(self, last_storage='1'):
        """Wait until `last_storage` is served; returns self."""
        self.read_until(f'serving storage {last_storage!r} ')
        return self

    def send(self, number):
        self._process.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """Send a signal, wait for the end; the exit code."""
        self.send(number)
        return self.result()[0]

    def result(self):
        """Wait for the end: (exit code, stdout, all of stderr)."""
        if not self._stderr.closed:
            with self._stdout, self._stderr:
                self._lines.append(self._stderr.read())
                self._process.wait()
                self._stdout.seek(0)
                self._output = self._stdout.read()
            self._limit.cancel()
            self._limit.join()
        for complaint in UNCAUGHT:
            assert complaint not in self.log, self.log
        return self._process.returncode, self._output, self.log

    def ruok(self):
        """What the server says about its health: ``{storage: {...}}``."""
        return ruok(self.address)


def await_server(address):
    """Until the server at `address` serves: zdaemon takes a test of its start for passed now and then that
    was not, when it hears of the end of that program twice."""
    ClientStorage(address, wait_timeout=LIMIT_S).close()


def ruok(address):
    """Ask the server at `address` about its health, as a monitor would."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
    else:
        sock = socket.create_connection(address, LIMIT_S)
    with sock, sock.makefile('rb') as file:
        sock.settimeout(LIMIT_S)
        assert read_frame(file) == b'Z5'
        sock.sendall(struct.pack('>I', 4) + b'ruok')
        status = json.loads(read_frame(file))
        assert file.read() == b''
    return status


def read_frame(file):
    size, = struct.unpack('>I', file.read(4))
    return file.read(size)


def run(*arguments, **options):
    """Run runzeo to its end: (exit code, stdout, stderr)."""
    with Runzeo(*arguments, **options) as process:
        return process.result()
