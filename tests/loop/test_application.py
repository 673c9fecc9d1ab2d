"""What an application's own main loop calls: ``zeo_clone.loop.loop`` and ``poll``."""
from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import zeo_clone.loop
from tests.loop.recorder import Recorder
from tests.support.forks import told_by_child


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


def test_poll_says_whether_anything_had_arrived(dispatcher, pair):
    assert zeo_clone.loop.poll() is False
    pair[1].send(b'x')
    assert zeo_clone.loop.poll(None) is True


@pytest.mark.parametrize('timeout', [60, None])
def test_a_timer_or_a_wake_up_does_not_end_a_poll(dispatcher, pair, timeout):
    """Both come first, in turns of their own, and only the second brings about what is waited for."""
    loop, done = zeo_clone.loop.application_loop(), []
    loop.door(lambda: done.append('door'))
    loop.call_later(0.001, lambda: (done.append('timer'), pair[1].send(b'x')))
    assert zeo_clone.loop.poll(timeout) is True
    assert (done, dispatcher.events) == (['door', 'timer'], ['read'])


def test_poll_ends_when_its_time_is_over_however_often_it_is_woken(dispatcher):
    loop, woken, over = zeo_clone.loop.application_loop(), [], []

    def wake():
        woken.append(1)
        if not over:
            loop.door(wake)

    loop.door(wake)
    assert zeo_clone.loop.poll(0.01) is False
    assert woken and dispatcher.events == []
    over.append(True)
    zeo_clone.loop.poll()  # the last one


def test_poll_ends_with_the_loop():
    loop = zeo_clone.loop.application_loop()
    loop.door(zeo_clone.loop.close_application_loop)
    assert zeo_clone.loop.poll(None) is False


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


def test_a_child_has_a_loop_of_its_own():
    """N10: and the parent keeps its one."""
    loop = zeo_clone.loop.application_loop()

    def child():
        own = zeo_clone.loop.application_loop()
        zeo_clone.loop.close_application_loop()
        return f'{own is loop} {own}'

    assert told_by_child(child) == 'False <Loop 0 dispatchers, 0 timers, closed>'
    assert zeo_clone.loop.application_loop() is loop
