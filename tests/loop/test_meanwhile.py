from __future__ import annotations

import threading

import pytest

from zeo_clone.loop.meanwhile import meanwhile
from zeo_clone.loop.runtime import REAL, Runtime

LIMIT_S = 20  # only a test that fails meets it


def test_it_goes_on_until_the_block_ends_and_not_after_that():
    often = threading.Semaphore(0)
    with pytest.raises(ZeroDivisionError), meanwhile(REAL, 0.001, often.release, 'test'):
        threads = [thread for thread in threading.enumerate() if thread.name == 'test']
        assert all(often.acquire(timeout=LIMIT_S) for _ in range(3))
        1 / 0  # noqa: B018
    assert threads and not any(thread.is_alive() for thread in threads)


class Interrupted(Runtime):
    """A signal comes while a thread is started."""

    def start_thread(self, *args):
        self.thread = super().start_thread(*args)
        raise KeyboardInterrupt


def test_a_signal_amid_the_start_leaves_no_thread_behind():
    """T3: it would stop the server again and again, while that ends."""
    runtime = Interrupted()
    with pytest.raises(KeyboardInterrupt), meanwhile(runtime, 0.001, lambda: None, 'test'):
        pytest.fail('it was not ended')
    runtime.thread.join(LIMIT_S)
    assert not runtime.thread.is_alive()
