"""The look for leaks sees what was left, so that its silence means something."""
from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tests.support.leaks import Watch, children
from tests.support.server_process import ServerProcess


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='children are read from /proc')
def test_a_child_process_is_seen_until_it_was_waited_for():
    watch = Watch()
    with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as process:
        assert process.pid in children()
        assert f'child process {process.pid} ' in watch.complaint()
        assert watch.complaint(permitted=[process.pid]) == ''
    assert watch.complaint() == ''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='children are read from /proc')
def test_a_server_that_a_spawner_has_forked_is_seen_until_it_has_ended():
    ServerProcess().start().stop()  # from now on there is a spawner
    watch = Watch()
    with ServerProcess() as server:
        assert f'child process {server.pid} ' in watch.complaint()
    assert watch.complaint() == ''


def test_a_thread_that_keeps_the_process_alive_is_named(monkeypatch):
    monkeypatch.setattr('tests.support.leaks.JOIN_LIMIT_S', 0)
    watch = Watch()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name='left over')
    thread.start()
    try:
        assert watch.complaint() == "thread 'left over'"
    finally:
        end.set()
        thread.join()
    assert watch.complaint() == ''


def test_daemons_are_nobodys_business():
    watch = Watch()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    assert watch.complaint() == ''
    end.set()
    thread.join()
