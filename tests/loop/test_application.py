"""What an application's own main loop calls: ``zeo_clone.loop.loop`` and ``poll``."""
from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import zeo_clone.loop
from tests.loop.recorder import Recorder


@pytest.fixture
def dispatcher(pair):
    loop = zeo_clone.loop.application_loop()
    dispatcher = Recorder(loop, pair[0])
    dispatcher.open()
    yield dispatcher
    dispatcher.close()


def test_there_is_one_application_loop():
    found = []
    threads = [threading.Thread(target=lambda: found.append(zeo_clone.loop.application_loop()))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [zeo_clone.loop.application_loop()] * 4


def test_poll_delivers_what_is_ready_and_does_not_wait(dispatcher, pair):
    zeo_clone.loop.poll()
    assert dispatcher.events == []
    pair[1].send(b'x')
    zeo_clone.loop.poll()
    assert dispatcher.events == ['read']


def test_loop_turns_as_often_as_it_was_told(dispatcher, pair):
    pair[1].send(b'x')
    zeo_clone.loop.loop(timeout=None, count=3)
    assert dispatcher.events == ['read'] * 3


def test_loop_returns_when_the_last_dispatcher_has_closed(dispatcher, pair):
    dispatcher.on_read = dispatcher.close
    pair[1].send(b'x')
    zeo_clone.loop.loop(timeout=None)
    assert dispatcher.events == ['read']


def test_loop_without_dispatchers_returns_at_once():
    zeo_clone.loop.loop(timeout=None)
    assert len(zeo_clone.loop.application_loop()) == 0


def test_script_that_used_the_application_loop_ends_silently():
    """N12: no warning of a resource that was not released."""
    script = 'import zeo_clone.loop; zeo_clone.loop.poll()'
    done = subprocess.run([sys.executable, '-X', 'dev', '-W', 'error', '-c', script],
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
