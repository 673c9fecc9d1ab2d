"""`zeo_clone.server` in a process of its own.  In a thread: everywhere in these tests."""
from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from contextlib import closing

import pytest

import zeo_clone
from tests.support.json_process import child_environment
from tests.support.server_process import package_path
from zeo_clone.Exceptions import ClientDisconnected

SCRIPT = '''
import os, sys, zeo_clone
address, stop = zeo_clone.server(path=sys.argv[1], threaded=False)
print(*address, flush=True)
sys.stdin.read()
os._exit(1)
'''


@pytest.fixture
def serving(tmp_path):
    """Address and stop of a server process over a FileStorage."""
    address, stop = zeo_clone.server(path=str(tmp_path / 'Data.fs'), threaded=False,
                                     zeo_conf={'transaction_timeout': 7})
    yield address, stop
    stop()


def test_it_serves_from_another_process_and_keeps_the_data(serving, tmp_path):
    address, stop = serving
    with closing(zeo_clone.DB(address)) as db, db.transaction() as connection:
        connection.root()['x'] = 1
        # Its lock is another process's.
        assert int((tmp_path / 'Data.fs.lock').read_text().split()[0]) != os.getpid()
    stop()
    with pytest.raises(ClientDisconnected):
        zeo_clone.client(address, wait_timeout=0)
    address, stop = zeo_clone.server(path=str(tmp_path / 'Data.fs'))
    with closing(zeo_clone.connection(address)) as connection:
        assert connection.root()['x'] == 1
    stop()


def test_what_is_wrong_is_raised_here(tmp_path):
    """As if it ran in this process."""
    with pytest.raises(ValueError, match='not both'):
        zeo_clone.server(path='x', storage_conf='<mappingstorage/>', threaded=False)
    with pytest.raises(FileNotFoundError):
        zeo_clone.server(path=str(tmp_path / 'missing' / 'Data.fs'), threaded=False)


def test_an_address_in_use_is_raised_before_a_file_is_made(tmp_path):
    """T1"""
    with socket.create_server(('127.0.0.1', 0)) as other:
        with pytest.raises(OSError, match='Address already in use'):
            zeo_clone.server(path=str(tmp_path / 'Data.fs'), port=other.getsockname()[1])
    assert os.listdir(tmp_path) == []


def test_a_process_that_cannot_begin_is_an_error(monkeypatch):
    monkeypatch.setattr('zeo_clone.embedded.CHILD', 'raise SystemExit(3)')
    with pytest.raises(ChildProcessError, match='exit code 3'):
        zeo_clone.server(threaded=False)


def test_it_ends_with_its_parent(tmp_path):
    """Even if that had no time to stop it: the file can be opened again."""
    with subprocess.Popen([sys.executable, '-c', SCRIPT, tmp_path / 'Data.fs'], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, env=child_environment(package_path())) as parent:
        host, port = parent.stdout.readline().split()
        storage = zeo_clone.client((host, int(port)), wait_timeout=0.1)
        parent.stdin.close()
    with closing(storage), contextlib.suppress(ClientDisconnected):
        while storage.is_connected():
            storage.ping()
