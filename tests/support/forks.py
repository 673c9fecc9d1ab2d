"""Copies of the test's process, for what depends on processes: locks, users, sudden ends."""
from __future__ import annotations

import os
import signal
import warnings


def fork():
    """As ``os.fork``; the child does little, and ends by ``os._exit``, whatever threads its parent has."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        return os.fork()


def in_a_process_that_is_killed(function):
    """Call `function` in a child, which then gets SIGKILL."""
    pid = fork()
    if not pid:
        try:
            function()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def told_by_child(function):
    """What `function` returns in a child, a string, or the text of its error."""
    reader, writer = os.pipe()
    pid = fork()
    if not pid:
        try:
            told = function()
        except BaseException as error:
            told = str(error)
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding='utf-8') as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told
