"""Servers in processes of their own start, end in every way, and come back at the same address."""
from __future__ import annotations

import os
import signal

import pytest

from tests.support.json_process import ChildError, JsonProcess
from tests.support.server_process import ServerHost, ServerProcess


def test_a_killed_server_comes_back_at_its_address_with_its_data(server_process, console):
    address, pid = server_process.address, server_process.pid
    prompt = console()
    prompt.connect(address)
    prompt.run("root['x'] = 1; transaction.commit()")
    prompt.forget()
    assert server_process.kill() == -signal.SIGKILL
    server_process.restart()
    assert (server_process.address, server_process.pid != pid) == (address, True)
    prompt.connect(address)
    assert prompt.run("root['x']") == 1


def test_it_ends_when_stdin_closes():
    assert ServerProcess().start().stop() == 0


def test_sigterm_ends_it_in_good_order():
    assert ServerProcess().start().terminate() == 0


def test_it_begins_where_its_starter_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ServerProcess([{'kind': 'file', 'path': 'Data.fs'}]):
        assert (tmp_path / 'Data.fs').exists()


def test_it_has_no_file_open_but_its_own():
    """What others were given when they were started is none of its business."""
    with ServerProcess() as first, ServerProcess() as second:
        open_files = [len(os.listdir(f'/proc/{server.pid}/fd')) for server in (first, second)]
        assert open_files[0] == open_files[1]


def test_it_listens_at_a_unix_socket(tmp_path, console):
    path = str(tmp_path / 'zeo')
    with ServerProcess(address=path) as server:
        assert server.address == path
        prompt = console()
        prompt.connect(path)
        prompt.run("root['x'] = 1; transaction.commit()")
        prompt.forget()


def test_it_serves_several_storages(console):
    base = {'kind': 'demo', 'base': {'kind': 'mapping'}}
    with ServerProcess([{'kind': 'mapping'}, base, {'kind': 'mapping', 'id': 'main'}]) as server:
        prompt = console()
        for storage in ('1', '2', 'main'):
            prompt.connect(server.address, storage=storage)
            prompt.run(f"root['x'] = {storage!r}; transaction.commit(); db.close()")
        prompt.connect(server.address, storage='2')
        assert prompt.run("root['x']") == '2'
        prompt.forget()


def test_real_zeo_has_the_same_interface(peer_server, console):
    prompt = console('ZEO')
    prompt.connect(peer_server.address)
    prompt.run("root['x'] = 1; transaction.commit()")
    assert prompt.run("root['x']") == 1


def test_one_host_serves_fresh_storages_one_after_another(console):
    prompt = console()
    with ServerHost() as host:
        for _ in range(3):
            served = host.start()
            prompt.connect(served.address)
            assert prompt.run("'x' in root") is False
            prompt.run("root['x'] = 1; transaction.commit()")
            prompt.forget()
            host.stop(served)


def test_a_server_that_cannot_start_says_why():
    with pytest.raises(ChildError, match="unknown kind of storage: 'wrong'"):
        ServerProcess([{'kind': 'wrong'}]).start()


def test_a_child_that_has_ended_is_told_with_its_log():
    with ServerHost() as host:
        os.kill(host.process.pid, signal.SIGKILL)
        with pytest.raises(ChildError, match=r'serve\.py pid \d+.*(ended|does not listen)'):
            host.start()


def test_a_child_that_cannot_be_started_leaves_nothing_open(tmp_path):
    """A file left open would fail whichever test runs when the collector finds it."""
    before = set(os.listdir('/proc/self/fd'))
    with pytest.raises(FileNotFoundError) as caught:  # whose traceback keeps the object alive
        JsonProcess(tmp_path / 'script.py', python=str(tmp_path / 'no-python'))
    assert set(os.listdir('/proc/self/fd')) == before, caught
