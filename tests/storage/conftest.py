"""End to end: real server processes, clients in this process, and what lies between them."""
from __future__ import annotations

import threading

import pytest

from tests.support.server_process import ServerProcess


@pytest.fixture
def blob_server(tmp_path):
    """A running ServerProcess over a FileStorage with blobs, ``Data.fs`` and ``blobs`` in `tmp_path`."""
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs'),
                         'blob_dir': str(tmp_path / 'blobs')}]) as process:
        yield process


@pytest.fixture
def in_thread():
    """Run a function in a thread: ``in_thread(function, *args)``; joined, and its error raised, by
    ``.result()`` or at the end of the test."""
    runs = []

    def start(function, *args):
        runs.append(Run(function, args))
        return runs[-1]

    yield start
    for run in runs:
        run.result()


class Run:
    """A function that runs in a thread."""

    LIMIT_S = 60

    def __init__(self, function, args):
        self._function = function
        self._args = args
        self._value = self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._value = self._function(*self._args)
        except BaseException as error:
            self._error = error

    def is_running(self):
        return self._thread.is_alive()

    def result(self):
        self._thread.join(self.LIMIT_S)
        assert not self._thread.is_alive(), f'{self._function} has not ended in {self.LIMIT_S} s'
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._value
