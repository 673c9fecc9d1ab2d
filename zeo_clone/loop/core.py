"""The event loop: asyncore's model, rebuilt.

Flows in: readiness of descriptors (poller), due timers, callbacks from other threads (trigger).  Flows
out: ``handle_*`` calls on dispatchers.  One thread at a time runs a turn; `door`, `stop` and the
poller's interest may be used from any thread.  It has never heard of ZEO.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from zeo_clone.loop.poller import READ, best_poller
from zeo_clone.loop.runtime import LONGEST_WAIT_S, REAL, Runtime
from zeo_clone.loop.throttle import Throttle
from zeo_clone.loop.timers import Timer, Timers
from zeo_clone.loop.trigger import Trigger

if TYPE_CHECKING:
    from zeo_clone.loop.dispatcher import Dispatcher

log = logging.getLogger(__name__)


class Loop:
    """Dispatchers, timers and one door; `run` it in a thread or `turn` it by hand."""

    def __init__(self, runtime: Runtime = REAL) -> None:
        self.runtime = runtime
        self.home = runtime.home()  # ``home[0]`` is false in a process that was forked since
        self.poller = best_poller(runtime)
        self.throttle = Throttle(runtime.monotonic)  # of log lines that a peer can have repeated
        self._timers = Timers(runtime.monotonic)
        self._trigger = Trigger(runtime)
        self._trigger_fd = self._trigger.fileno()
        self._dispatchers: dict[int, Dispatcher] = {}
        self._in_line: deque[Callable[[], object]] = deque()
        self._stopping = False
        self._closed = False
        self._turn_lock = runtime.rlock()  # protects the turn: one thread at a time runs it
        self._thread_ident: int | None = None
        self.runs_itself = False  # `run` is under way: timers ring without anybody's doing
        self.poller.set_interest(self._trigger_fd, READ)

    def __repr__(self) -> str:
        return (f'<Loop {len(self._dispatchers)} dispatchers, {len(self._timers)} timers'
                f'{", closed" if self._closed else ""}>')

    def __len__(self) -> int:
        """The number of registered dispatchers."""
        return len(self._dispatchers)

    # ---- any thread ---------------------------------------------------------------------------

    def door(self, callback: Callable[[], object]) -> None:
        """Have `callback` called in the loop's thread, in the order of the calls of `door`."""
        self._trigger.pull(callback)

    def wake(self) -> None:
        """Have a turn that is waiting look again at timers and interests."""
        self._trigger.pull()

    def stop(self) -> None:
        """Let `run` return after its present turn.  Safe in a signal handler."""
        self._stopping = True
        self._trigger.pull()

    def in_loop_thread(self) -> bool:
        """Is the calling thread the one that is running a turn?"""
        return self._thread_ident == self.runtime.get_ident()

    def set_interest(self, fd: int, mask: int) -> None:
        """Change what `fd` is polled for."""
        self.poller.set_interest(fd, mask)
        if not self.poller.live and not self.in_loop_thread():
            self._trigger.pull()

    # ---- loop thread --------------------------------------------------------------------------

    def register(self, dispatcher: Dispatcher) -> None:
        """Deliver events of ``dispatcher.fd`` to `dispatcher` once it asks for some."""
        self._dispatchers[dispatcher.fd] = dispatcher

    def unregister(self, dispatcher: Dispatcher) -> None:
        """Forget `dispatcher`; an event of this turn that waits for it is not delivered."""
        if self._dispatchers.get(dispatcher.fd) is dispatcher:
            self.poller.set_interest(dispatcher.fd, 0)
            del self._dispatchers[dispatcher.fd]

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` in the loop's thread in `delay_s` seconds."""
        return self._timers.call_later(delay_s, callback)

    def in_line(self, callback: Callable[[], object]) -> None:
        """Call `callback` in a later turn: one of these in each turn, first come, first served.

        For what is long and done in parts: between two parts everybody who is ready is served.
        """
        self._in_line.append(callback)

    def run(self) -> None:
        """Turn until `stop`, or until `close` was called from within."""
        self.runs_itself = True
        try:
            while not (self._stopping or self._closed):
                self.turn(None)
            self._stopping = False
        finally:
            self.runs_itself = False

    def turn(self, timeout_s: float | None) -> bool:
        """Wait at most `timeout_s` seconds (None: for ever) for events and deliver them once.

        A timer or a call through the door ends the wait too: true if a dispatcher got an event.
        """
        with self._turn_lock:
            if self._closed:
                return False
            outer, self._thread_ident = self._thread_ident, self.runtime.get_ident()
            try:
                return self._turn(timeout_s)
            finally:
                self._thread_ident = outer

    def turn_until_event(self, timeout_s: float | None) -> bool:
        """Turn until a dispatcher got an event (true), or `timeout_s` seconds (None: for ever) have passed.

        Timers and calls through the door are served meanwhile; they do not end it.
        """
        now = self.runtime.monotonic
        deadline = None if timeout_s is None else now() + timeout_s
        while not self.turn(timeout_s):
            if self._closed:
                return False
            if deadline is not None:
                timeout_s = deadline - now()
                if timeout_s <= 0:
                    return False
        return True

    def _turn(self, timeout_s: float | None) -> bool:
        delivered = False
        somebody_waits = bool(self._in_line)
        if somebody_waits:
            timeout_s = 0.0
        delay = self._timers.delay()
        if delay is not None and (timeout_s is None or delay < timeout_s):
            timeout_s = delay
        if timeout_s is not None:
            timeout_s = min(timeout_s, LONGEST_WAIT_S)
        # Whose events they are is settled at once: a handler may close a descriptor, and a new one with
        # the same number is somebody else.
        events = [(fd, mask, self._dispatchers.get(fd)) for fd, mask in self.poller.poll(timeout_s)]
        for fd, mask, dispatcher in events:
            if fd == self._trigger_fd:
                for callback in self._trigger.take():
                    self._call(callback)
            elif dispatcher is not None and self._dispatchers.get(fd) is dispatcher:
                dispatcher.handle_event(mask)
                delivered = True
            if self._closed:
                return delivered
        if somebody_waits and self._in_line:
            self._call(self._in_line.popleft())
            if self._closed:
                return delivered
        for callback in self._timers.pop_due():
            self._call(callback)
            if self._closed:
                break
        return delivered

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception as error:
            self.throttle.report(log, logging.ERROR, f'callback: {type(error)}', '',
                                 'a callback of the event loop failed: %r', callback, error=error)

    def close_all(self) -> None:
        """Close every dispatcher that is still registered."""
        for dispatcher in list(self._dispatchers.values()):
            self._call(dispatcher.handle_close)

    def orphan(self) -> None:
        """Drop copies of descriptors in a process that was forked, and touch nothing that is the parent's.

        Locks may be held by threads that do not exist here: none is taken.
        """
        self._closed = True
        for dispatcher in list(self._dispatchers.values()):
            dispatcher.orphan()
        self._dispatchers.clear()
        self._trigger.close()
        self.poller.close()

    def close(self) -> None:
        """Close all dispatchers and release poller and trigger.  May be called twice."""
        with self._turn_lock:
            if self._closed:
                return
            self.close_all()
            self._closed = True
            self._trigger.close()
            self.poller.close()
