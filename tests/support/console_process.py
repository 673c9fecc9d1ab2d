"""Drives Python prompts in processes of their own (``console.py``): clients that are truly apart.

    with Console() as one, Console('ZEO') as other:
        one.connect(address)
        other.connect(address)
        one.run("root['x'] = 1; transaction.commit()")
        other.refresh()
        assert other.run("root['x']") == 1

The same source runs with zeo_clone and with real ZEO.  Belongs to one thread of the test.
"""
from __future__ import annotations

import ast
import sys
from pathlib import Path

from tests.support.json_process import JsonProcess
from tests.support.peer_env import import_name, python_of
from tests.support.server_process import package_path

CONSOLE = Path(__file__).with_name('console.py')

CONNECT = """
from {package} import ClientStorage
from ZODB import DB
import transaction
storage = ClientStorage.ClientStorage({address!r}, **{options!r})
db = DB(storage); conn = db.open(); root = conn.root()
"""

#: A round trip brings in everything that the server sent before it; then a transaction begins.
REFRESH = """
storage.server_status()
transaction.begin()
"""


class RemoteError(Exception):
    """The source raised in the console.  Everything is told by value; nothing is imported here."""

    def __init__(self, reply):
        super().__init__(f"{reply['error']}: {reply['message']}\nIn the console:\n{reply['traceback']}")
        self.class_name = reply['error']
        self.bases = reply['bases']
        self.arguments = literal(reply['arguments'])
        self.attributes = literal(reply['attributes'])
        self.message = reply['message']


def literal(text):
    """The value of which `text` is the repr; `text` itself if that is not a literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class Console:
    """One prompt; `package` is ``zeo_clone`` or one of ``peer_env``.  Runs when made."""

    def __init__(self, package='zeo_clone'):
        ours = package == 'zeo_clone'
        self.package = package
        self.process = JsonProcess(
            CONSOLE, python=sys.executable if ours else python_of(package),
            path=package_path() if ours else None, strict=ours)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stop()

    def connect(self, address, **options):
        """Open ``storage``, ``db``, ``conn`` and ``root`` there."""
        self.run(CONNECT.format(package=import_name(self.package), address=address, options=options))

    def refresh(self):
        """Take in what others have committed, and begin a transaction."""
        self.run(REFRESH)

    def run(self, source):
        """Execute; returns the value of a final expression.  Raises RemoteError."""
        self.start(source)
        return self.finish()

    def start(self, source):
        """Begin to execute; `finish` waits for the end, so that several consoles can work at once."""
        self.process.send({'source': source})

    def finish(self):
        reply = self.process.receive()
        if 'error' in reply:
            raise RemoteError(reply)
        return literal(reply['value'])

    def forget(self):
        """Close what is open and start with an empty namespace."""
        self.process.send({'forget': True})
        self.finish()


class ConsolePool:
    """Keeps idle consoles for the next test, because a Python with ZODB is slow to start."""

    def __init__(self):
        self._idle = []

    def take(self, package):
        """An idle console for `package`, or a new one."""
        for console in self._idle:
            if console.package == package:
                self._idle.remove(console)
                return console
        return Console(package)

    def give_back(self, console):
        """Keep it for the next, empty; one that does not answer is ended, and the error raised."""
        try:
            console.forget()
        except BaseException:
            console.process.kill()
            raise
        self._idle.append(console)

    def pids(self):
        return {console.process.pid for console in self._idle}

    def close(self):
        while self._idle:
            self._idle.pop().process.stop()
