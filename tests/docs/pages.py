"""Runs a page of the documentation as a reader would who types in everything, from top to bottom.

In: a Markdown file.  Its blocks say what to do with them by the words after the three backticks:

    sh            run it; it must succeed          sh server   start it; it serves until the page ends
    python        run it; it must succeed          sh web PORT the same, with a web server at that port
    conf NAME     write it to the file NAME        sh checkout run it in the checkout
    python NAME   the same, also ini NAME          (other)     nothing; tests of its own look at it

Everything happens in one directory.  The `PORTS` become ones that are free.  Commands are those of the
package under test, and those of another environment if the reader has one.  Belongs to one thread of the
test.
"""
from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from tests.support.json_process import UNCAUGHT, child_environment
from tests.support.runzeo_process import Runzeo
from tests.support.server_process import package_path

CHECKOUT = Path(__file__).parent.parent.parent
DOCS = CHECKOUT / 'docs'
LIMIT_S = 240
PAGE_LIMIT_S = 300  # for servers, which run until the page ends
PORTS = ('9100', '9180', '8080', '8081', '5441', '5442')
FILES = {'conf', 'ini', 'python'}
#: Pages whose commands come from other packages; tests/recipes follows them.
RECIPES = {'moving.md', 'plone.md', 'processes.md', 'pyramid.md', 'zope.md'}
BLOCK = re.compile(r'^```(\w+)([^\n]*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the other words after the backticks, its text."""

    language: str
    words: tuple[str, ...]
    text: str


def blocks(page):
    """The blocks of a page of docs, in order."""
    return [Block(language, tuple(words.split()), text)
            for language, words, text in BLOCK.findall((DOCS / page).read_text(encoding='utf-8'))]


def free_port():
    with socket.create_server(('localhost', 0)) as sock:
        return sock.getsockname()[1]


class Reader:
    """Types in what pages say, in `directory`.  A context manager; ends the servers that it started.

    `site` is the ``bin`` of the environment with the package and others, for pages on these; without it
    everything is run in our own.  No command may take longer than `limit_s`.
    """

    def __init__(self, directory, site=None, limit_s=LIMIT_S):
        self.directory = directory
        self._limit_s = limit_s
        self._site = site
        self.output = ''
        self._ports = {port: str(free_port()) for port in PORTS}
        self._servers = contextlib.ExitStack()
        self._path = directory.parent / f'{directory.name}-bin'
        self._path.mkdir()
        script = self._path / 'zeo-clone'
        python = ' '.join(map(str, self._python()))
        script.write_text(f'#!/bin/sh\nexec {python} -m zeo_clone "$@"\n')
        script.chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._servers.close()

    def adapt(self, text):
        """The text with ports of our own."""
        return re.sub('|'.join(PORTS), lambda found: self._ports[found[0]], text)

    def follow(self, page):
        """Do what all blocks of a page say.  Returns how many were followed."""
        return sum(self.do(block) for block in blocks(page))

    def do(self, block):
        """Do what a block says; False if it is none of those that are done."""
        if block.language in FILES and block.words:
            name, = block.words
            (self.directory / name).write_text(self.adapt(block.text))
        elif (block.language, block.words) == ('sh', ('server',)):
            self._serve(block.text)
        elif block.language == 'sh' and block.words[:1] == ('web',):
            self._serve_web(block.text, int(self._ports[block.words[1]]))
        elif block.language == 'sh' and block.words in [(), ('checkout',)]:
            place = CHECKOUT if block.words == ('checkout',) else self.directory
            self.run('bash', '-euo', 'pipefail', '-c', self.adapt(block.text), cwd=place)
        elif block.language == 'python':
            self.run(*self._python(), '-c', self.adapt(block.text))
        else:
            return False
        return True

    def environment(self):
        place = self._site or os.path.dirname(sys.executable)
        path = os.pathsep.join([str(self._path), str(place), os.environ['PATH']])
        return {**child_environment(None if self._site else package_path()), 'PATH': path}

    def _python(self):
        """Where others' packages are, their warnings are no errors."""
        return (self._site / 'python',) if self._site else (sys.executable, '-W', 'error')

    def run(self, *command, cwd=None):
        """Run a command, which must succeed and leave no error uncaught."""
        done = subprocess.run(command, cwd=cwd or self.directory, env=self.environment(), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=self._limit_s)
        assert done.returncode == 0, f'{command}:\n{done.stdout}{done.stderr}'
        assert not any(word in done.stderr for word in UNCAUGHT), done.stderr
        self.output += done.stdout

    def _serve(self, text):
        command = ['bash', '-c', f'exec {self.adapt(text).strip()}']
        server = self._servers.enter_context(
            Runzeo(command=command, cwd=self.directory, limit_s=PAGE_LIMIT_S,
                   PATH=self.environment()['PATH']))
        self._servers.callback(self._stop, server)
        server.read_until('serving storage')

    def _serve_web(self, text, port):
        """Start a web server and wait until it listens; whatever it starts belongs to its process group."""
        log = self._servers.enter_context(open(self.directory / f'web-{port}.log', 'w+'))
        process = subprocess.Popen(['bash', '-c', f'exec {self.adapt(text).strip()}'], cwd=self.directory,
                                   env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
        limit = threading.Timer(PAGE_LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        self._servers.callback(self._stop_web, process, limit)
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(('localhost', port)).close()
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.02)
                raise AssertionError(f'{text} ended with {code}:\n{Path(log.name).read_text()}')

    @staticmethod
    def _stop_web(process, limit):
        process.terminate()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        limit.cancel()
        limit.join()

    @staticmethod
    def _stop(server):
        assert server.stop() == 0
