"""The commands as their users run them: a process, its output, an exit code.

    code, out, err = run_tool('nagios', '127.0.0.1:9100')

and, by `call`, other commands, which must succeed.  Belongs to one thread of the test.  A process that hangs
is ended, and the test fails.
"""
from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile

from tests.support.json_process import STRICT, UNCAUGHT, child_environment
from tests.support.server_process import package_path
from tests.support.spawner import spawner

LIMIT_S = 240  # only a process that hangs meets it
CALL_LIMIT_S = 1200  # the same for commands that do much: a build, a part of the suite


def tool_command(module):
    """What runs ``zeo_clone.<module>``, with every warning an error."""
    return [sys.executable, '-X', 'faulthandler', '-W', 'error', '-m', f'zeo_clone.{module}']


def start_tool(module, arguments, stdout, stderr, *, cwd=None, command=None, path=None, environment=()):
    """A running command, writing to files: the module of zeo_clone, or `command` in its place.

    The module begins with its imports done where that can be, unless it imports from a `path` of its own.
    """
    environment = {**child_environment(path or package_path()), **dict(environment)}
    arguments = list(map(str, arguments))
    with open(os.devnull) as nothing:
        if command is None and path is None:
            parent = spawner(STRICT, child_environment(package_path()))
            if parent is not None:
                files = (nothing.fileno(), stdout.fileno(), stderr.fileno())
                return parent.spawn(arguments, environment, *files, module=f'zeo_clone.{module}',
                                    filters=['error'], directory=cwd and str(cwd))
        return subprocess.Popen([*(command or tool_command(module)), *arguments], env=environment, cwd=cwd,
                                stdin=nothing, stdout=stdout, stderr=stderr)


def run_tool(module, *arguments, cwd=None, command=None, path=None, **environment):
    """Run a command to its end: (exit code, stdout, stderr).  `command` is run in place of the module."""
    with tempfile.TemporaryFile('w+') as stdout, tempfile.TemporaryFile('w+') as stderr:
        process = start_tool(module, arguments, stdout, stderr, cwd=cwd, command=command, path=path,
                             environment=environment)
        try:
            code = process.wait(LIMIT_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        for file in (stdout, stderr):
            file.seek(0)
        out, complaints = stdout.read(), stderr.read()
    for complaint in UNCAUGHT:
        assert complaint not in complaints, complaints
    return code, out, complaints


def call(*command, cwd=None, path=None, **environment):
    """Run a command that must succeed, importing from `path` besides its own places; its standard output."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, text=True, stdin=subprocess.DEVNULL,
                          env={**child_environment(path), **environment}, capture_output=True,
                          timeout=CALL_LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_at_terminal(module, *arguments, cwd=None):
    """The same with a terminal as stdout and stderr: (exit code, what the terminal was sent)."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*tool_command(module), *map(str, arguments)], cwd=cwd, env=child_environment(package_path()),
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    finally:
        os.close(theirs)
    shown = b''
    try:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux' way to say that the other end is closed
                data = b''
            if not data:
                break
            shown += data
        code = process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, shown.decode()
