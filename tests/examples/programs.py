"""Runs the programs of examples/ as their users do: in processes of their own, by pipe or at a terminal.

    with Program('chatter.py', address, 'general', 'Ada') as ada:
        ada.send('hello')
        ada.read_until('Ada: hello')
        assert ada.interrupt() == 0

In: lines.  Out: lines, an exit code.  A program that falls silent is ended after a limit, and the test
fails.  `Gate` is a proxy that shows and holds the frames of a connection.  A `Program` belongs to one
thread of the test.  Refuses to know what the programs are about.
"""
from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.support.json_process import UNCAUGHT, child_environment
from tests.support.proxy import LENGTH, Proxy
from tests.support.server_process import package_path

EXAMPLES = Path(__file__).parent.parent.parent / 'examples'
LIMIT_S = 600  # only a program that hangs meets it

#: Makes the terminal on stdin the one whose Ctrl-C it gets, then becomes another program.
AT_TERMINAL = 'import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); ' \
              'os.execv(sys.argv[1], sys.argv[1:])'


def text_of(argument):
    """An argument as a user types it; addresses too."""
    return '{}:{}'.format(*argument) if isinstance(argument, tuple) else str(argument)


def command(script, *arguments):
    """What runs a program of examples/, with every warning an error.

    `script` is a file, or the name of a module that is started in that directory, as ``-m`` does.
    """
    program = [str(EXAMPLES / script)] if script.endswith('.py') else ['-m', script]
    return [sys.executable, '-X', 'faulthandler', '-W', 'error', *program, *map(text_of, arguments)]


def run_example(script, *arguments, cwd=None, stdin=''):
    """Run a program to its end: (exit code, stdout, stderr)."""
    done = subprocess.run(command(script, *arguments), cwd=cwd, env=child_environment(package_path()),
                          input=stdin, text=True, capture_output=True, timeout=LIMIT_S)
    assert_nothing_uncaught(done.stderr)
    return done.returncode, done.stdout, done.stderr


def assert_nothing_uncaught(errors):
    for complaint in (*UNCAUGHT, 'Traceback'):
        assert complaint not in errors, errors


class Program:
    """A running program.  A context manager; runs when made.

    With `terminal` it has a terminal of its own, whose Ctrl-C and Ctrl-D work; else pipes.  `output` is
    what was read so far.  `environment` adds to our own.
    """

    def __init__(self, script, *arguments, cwd=None, terminal=False, **environment):
        self.output = ''
        self._unread = ''
        self._errors = tempfile.TemporaryFile('a+b', prefix='zeo-clone-example-')
        theirs, begin = subprocess.PIPE, []
        if terminal:
            ours, theirs = pty.openpty()
            begin = [sys.executable, '-I', '-S', '-c', AT_TERMINAL]
        try:
            self._process = subprocess.Popen(
                [*begin, *command(script, *arguments)], cwd=cwd, stdin=theirs, stdout=theirs,
                stderr=self._errors, start_new_session=terminal,
                env={**child_environment(package_path()), 'TERM': 'xterm', **environment})
        finally:
            if terminal:
                os.close(theirs)
        self._write_fd, self._read_fd = (ours, ours) if terminal else (
            self._process.stdin.fileno(), self._process.stdout.fileno())
        self._terminal = terminal
        self._limit = threading.Timer(LIMIT_S, self._process.kill)
        self._limit.daemon = True
        self._limit.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._limit.cancel()
        self._limit.join()
        self._errors.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self._terminal:
            os.close(self._read_fd)

    @property
    def pid(self):
        return self._process.pid

    def type(self, text):
        """Send `text` as it is."""
        os.write(self._write_fd, text.encode())

    def send(self, line):
        """Send a line."""
        self.type(line + '\n')

    def read_until(self, text):
        """Read on until `text` comes, and return what was read up to its end."""
        start = len(self.output) - len(self._unread)
        while text not in self._unread:
            data = self._read()
            assert data, f'the program ended without saying {text!r}; it said:\n{self.output}{self.errors()}'
            self.output += data
            self._unread += data
        before, _, self._unread = self._unread.partition(text)
        return self.output[start:start + len(before) + len(text)]

    def errors(self):
        """What it wrote to stderr so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors='replace')

    def signal(self, number):
        self._process.send_signal(number)

    def interrupt(self):
        """End it by SIGINT; the exit code."""
        self.signal(signal.SIGINT)
        return self.wait()

    def end_of_input(self):
        """Close its input (at a terminal type Ctrl-D); the exit code."""
        if self._terminal:
            self.type('\x04')
        else:
            self._process.stdin.close()
        return self.wait()

    def wait(self):
        """Read the rest, wait for the end; the exit code."""
        while data := self._read():
            self.output += data
        code = self._process.wait(LIMIT_S)
        assert_nothing_uncaught(self.errors())
        return code

    def _read(self):
        try:
            return os.read(self._read_fd, 65536).decode(errors='replace')
        except OSError:  # Linux' way to say that the other end of a terminal is closed
            return ''


class Gate(Proxy):
    """A proxy that keeps a record of all frames, and can hold one back.

        gate.hold(UP, b'vote')   # the next frame with these bytes will stop here
        gate.held.wait(LIMIT_S)  # it has come
        gate.let_go()
    """

    def __init__(self, target):
        self.record = []  # (direction, content of the frame), of all connections in order of arrival
        self.held = threading.Event()
        self._wanted = None
        self._open = threading.Event()
        super().__init__(target)

    def hold(self, direction, content):
        self.held.clear()
        self._open.clear()
        self._wanted = direction, content

    def let_go(self):
        self._open.set()

    def close(self):
        self._open.set()
        super().close()

    def _cut_at(self, direction, number, frame):
        content = frame[LENGTH.size:]
        self.record.append((direction, content))
        wanted = self._wanted
        if wanted is not None and wanted[0] == direction and wanted[1] in content:
            self._wanted = None
            self.held.set()
            self._open.wait()
        return super()._cut_at(direction, number, frame)
