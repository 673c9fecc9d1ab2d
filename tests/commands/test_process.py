from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

from zeo_clone.commands.process import Signals

LIMIT_S = 60  # only a test that fails meets it
STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture
def signals():
    with contextlib.closing(Signals()) as signals:
        yield signals


@contextlib.contextmanager
def main_thread_deaf():
    """The main thread hears no signal: they come as if it had just begun to wait for something else."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*STOPS, signal.SIGUSR2])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize('number', STOPS)
def test_stop_does_not_wait_for_the_main_thread(signals, number):
    """T3"""
    stopped = threading.Event()
    signals.stop_with(stopped.set)
    with main_thread_deaf():
        os.kill(os.getpid(), number)
        assert stopped.wait(LIMIT_S)
    assert signals.received == number


@pytest.mark.parametrize(('number', 'code'), [
    (signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 1)])
def test_stop_before_there_is_a_server_ends_the_process(signals, number, code):
    """T3"""
    with pytest.raises(SystemExit) as caught:
        signal.raise_signal(number)
    assert caught.value.code == code == signals.exit_code


def test_stop_ends_what_opens_a_storage_though_it_swallows_it(signals):
    """T3: FileStorage does while it reads its index."""
    def open_storage():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        threading.Event().wait(LIMIT_S)

    with pytest.raises(SystemExit), signals.opening():
        open_storage()
        pytest.fail('it was not ended')


def test_stop_that_opening_a_storage_swallows_ends_the_start(signals):
    """T3"""
    with pytest.raises(SystemExit), signals.opening(), contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def test_stop_that_came_just_before_the_server_stops_it(signals):
    """T3"""
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    stopped = []
    signals.stop_with(lambda: stopped.append(True))
    assert stopped


def test_close_puts_back_what_was_there_before():
    before = [signal.getsignal(number) for number in STOPS]
    with contextlib.closing(Signals()):
        assert [signal.getsignal(number) for number in STOPS] != before
    assert [signal.getsignal(number) for number in STOPS] == before
    assert signal.set_wakeup_fd(-1) == -1
