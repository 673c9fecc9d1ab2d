"""A child process with which one talks in lines of JSON.

In: requests from one thread of the test; out: the child's replies.  The child ends when its stdin
closes, so it cannot outlive us.  This module refuses to know what the child does.
"""
from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPLY_LIMIT_S = 120  # more than any one request takes; only a hanging child meets it
STOP_LIMIT_S = 20
SHOWN_LOG_CHARACTERS = 4000

#: Options of Python: it tells where it hangs; and complains about what was not closed.
DUMPS = ('-X', 'faulthandler')
STRICT = (*DUMPS, '-W', 'error::ResourceWarning')
#: What Python writes to stderr about errors that nobody could catch.
UNCAUGHT = ('Exception ignored', 'Exception in thread', 'ResourceWarning')


class ChildError(Exception):
    """The child ended, fell silent or refused a request; the message ends with its log."""


def child_environment(path=None):
    """The environment of a child that imports from `path`, or from nothing but its own places."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ('PYTHONPATH', 'PYTHONHOME', 'PYTHONWARNINGS')}
    if path is not None:
        environment['PYTHONPATH'] = str(path)
    return environment


class JsonProcess:
    """A running script; `call` sends a request and returns the reply.

    `python` is an interpreter, `script` a file, `path` a directory for the child's PYTHONPATH.  With
    `strict`, `stop` fails if the child's Python complained about an error that nobody caught.  A `spawner`
    may start it that has the script's imports done.
    """

    def __init__(self, script, *arguments, python=sys.executable, path=None, strict=True, spawner=None):
        self._name = Path(script).name
        self._strict = strict
        self._buffer = b''
        self._log = tempfile.TemporaryFile('a+b', prefix='zeo-clone-child-')  # both only append
        self._final_log = ''
        (its_stdin, stdin), (stdout, its_stdout) = os.pipe(), os.pipe()
        self._stdin, self._stdout = open(stdin, 'wb'), open(stdout, 'rb')
        try:
            if spawner is not None:
                self._process = spawner.spawn(arguments, child_environment(path), its_stdin, its_stdout,
                                              self._log.fileno())
            else:
                self._process = subprocess.Popen(
                    [python, *(STRICT if strict else DUMPS), str(script), *arguments], stderr=self._log,
                    env=child_environment(path), stdin=its_stdin, stdout=its_stdout)
        except BaseException:
            # Else the collector complains later, in a test that has nothing to do with it.
            for file in (self._log, self._stdin, self._stdout):
                file.close()
            raise
        finally:
            os.close(its_stdin)
            os.close(its_stdout)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)

    def __repr__(self):
        return f'<{self._name} pid {self.pid}, exit status {self._process.returncode}>'

    @property
    def pid(self):
        return self._process.pid

    @property
    def returncode(self):
        """The exit status, or None while the process runs."""
        return self._process.poll()

    def log(self):
        """What the child wrote to stderr so far; also after its end."""
        if self._log.closed:
            return self._final_log
        self._log.seek(0)
        return self._log.read().decode(errors='replace')

    def call(self, request):
        """Send `request`, return the reply.  Raises ChildError if none comes."""
        self.send(request)
        return self.receive()

    def send(self, request):
        """Send `request`; `receive` fetches its reply, so that several children can work at once."""
        try:
            self._stdin.write(json.dumps(request).encode() + b'\n')
            self._stdin.flush()
        except OSError as error:
            raise self._error(f'does not listen any more ({error})') from error

    def receive(self):
        deadline = time.monotonic() + REPLY_LIMIT_S
        while b'\n' not in self._buffer:
            if not self._selector.select(max(0, deadline - time.monotonic())):
                self._process.send_signal(signal.SIGABRT)  # faulthandler writes all stacks
                self._process.wait(STOP_LIMIT_S)
                raise self._error(f'gave no answer in {REPLY_LIMIT_S} s')
            chunk = os.read(self._stdout.fileno(), 65536)
            if not chunk:
                self._process.wait(STOP_LIMIT_S)
                raise self._error('ended')
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b'\n')
        return json.loads(line)

    def stop(self):
        """Close stdin, wait for the end, return the exit status.  May be called twice."""
        self._close_stdin()
        return self._wait()

    def terminate(self):
        """End it by SIGTERM; returns the exit status."""
        self._process.terminate()
        return self._wait()

    def kill(self):
        """End it by SIGKILL, as a crash does."""
        self._process.kill()
        return self._wait()

    def _wait(self):
        try:
            status = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait(STOP_LIMIT_S)
            raise self._error(f'did not end within {STOP_LIMIT_S} s') from None
        finally:
            self._release()
        if self._strict and any(word in self._final_log for word in UNCAUGHT):
            raise self._error('complained')
        return status

    def _release(self):
        """Keep the log and close our ends of the pipes."""
        if not self._log.closed:
            self._final_log = self.log()
            self._log.close()
        self._selector.close()
        self._stdout.close()
        self._close_stdin()

    def _close_stdin(self):
        with contextlib.suppress(OSError):  # what it did not read before its end is lost anyway
            self._stdin.close()

    def _error(self, what):
        return ChildError(f'{self!r} {what}; its log:\n{self.log()[-SHOWN_LOG_CHARACTERS:]}')
