"""Runs a page of the documentation as a reader would who types in everything, from top to bottom.

In: a Markdown file.  Its blocks say what to do with them by the words after the three backticks:

    sh            run it; it must succeed          sh server   start it; it serves until the page ends
    python        run it; it must succeed          sh checkout run it in the checkout
    conf NAME     write it to the file NAME        (other)     nothing; tests of its own look at it

Everything happens in one directory.  The ports 9100 and 9180 become ones that are free.  Commands are those
of the package under test.  Belongs to one thread of the test.
"""
from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.json_process import UNCAUGHT, child_environment
from tests.support.runzeo_process import Runzeo
from tests.support.server_process import package_path

CHECKOUT = Path(__file__).parent.parent.parent
DOCS = CHECKOUT / 'docs'
LIMIT_S = 60
PORTS = ('9100', '9180')
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
    """Types in what pages say, in `directory`.  A context manager; ends the servers that it started."""

    def __init__(self, directory):
        self.directory = directory
        self.output = ''
        self._ports = {port: str(free_port()) for port in PORTS}
        self._servers = contextlib.ExitStack()
        self._path = directory.parent / f'{directory.name}-bin'
        self._path.mkdir()
        script = self._path / 'zeo-clone'
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -W error -m zeo_clone "$@"\n')
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
        if block.language == 'conf':
            name, = block.words
            (self.directory / name).write_text(self.adapt(block.text))
        elif (block.language, block.words) == ('sh', ('server',)):
            self._serve(block.text)
        elif block.language == 'sh' and block.words in [(), ('checkout',)]:
            place = CHECKOUT if block.words == ('checkout',) else self.directory
            self.run('bash', '-euo', 'pipefail', '-c', self.adapt(block.text), cwd=place)
        elif block.language == 'python':
            self.run(sys.executable, '-W', 'error', '-c', self.adapt(block.text))
        else:
            return False
        return True

    def environment(self):
        path = os.pathsep.join([str(self._path), os.path.dirname(sys.executable), os.environ['PATH']])
        return {**child_environment(package_path()), 'PATH': path}

    def run(self, *command, cwd=None):
        """Run a command, which must succeed and leave no error uncaught."""
        done = subprocess.run(command, cwd=cwd or self.directory, env=self.environment(), text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
        assert done.returncode == 0, f'{command}:\n{done.stdout}{done.stderr}'
        assert not any(word in done.stderr for word in UNCAUGHT), done.stderr
        self.output += done.stdout

    def _serve(self, text):
        command = ['bash', '-c', f'exec {self.adapt(text).strip()}']
        server = self._servers.enter_context(
            Runzeo(command=command, cwd=self.directory, PATH=self.environment()['PATH']))
        self._servers.callback(self._stop, server)
        server.read_until('serving storage')

    @staticmethod
    def _stop(server):
        assert server.stop() == 0
