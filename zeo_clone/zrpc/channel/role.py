"""The reader's role: which thread receives and processes what arrives on a client's connection.

One thread at a time has it: a caller until its reply has come (the *leader*), then one of the callers that
wait (*followers*), else the loop, as soon as the socket is readable.  So what arrives takes effect in wire
order.  Any thread calls in here; what is decided under the lock is done outside of it, by the channel,
except that the loop is asked for input here, and a follower is woken, because both must agree with who is
the reader.
"""
from __future__ import annotations

from collections import deque

from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.loop.poller import READ, WRITE
from zeo_clone.zrpc.channel.calls import GONE, LOOP, PendingCall, Reader
from zeo_clone.zrpc.channel.sending import Sender

#: A connection on which this many calls are made one after the other becomes *hot*: the loop is not given
#: the read interest back between calls, which would cost two system calls each time ...
HOT_AFTER = 64
#: ... until fewer than these are made ...
HOT_CALLS = 10
#: ... in so many seconds.  For so long at most a notice waits when the calls suddenly end.
HOT_INTERVAL_S = 0.01


class Role:
    """Who reads on one connection."""

    def __init__(self, channel: Dispatcher, sender: Sender) -> None:
        self._channel = channel
        self._loop = channel.loop
        self._sender = sender
        #: Protects who reads, who waits and what the loop looks for.  The sender's may be held before it.
        self.lock = self._loop.runtime.lock()
        self.holder: PendingCall | Reader | None = None  # None: the loop, once it is readable
        self._followers: deque[PendingCall] = deque()
        self._listening = False  # the loop polls for input while nobody else reads
        self._write_wanted = False
        self._mask = 0
        self._calls = 0  # since the last look at them
        self.hot = False
        self._looking = False  # a look at the calls is planned

    def start(self) -> None:
        """Loop thread: let the loop read while no caller does."""
        with self.lock:
            if not self._channel.closed:
                self._loop.register(self._channel)
                self._listening = True
                self._poll()

    def take(self, who: PendingCall | Reader) -> bool:
        """Become the reader, or, for a call, queue up for it: then its wakeup will be released."""
        with self.lock:
            if self.holder is None:
                self.holder = who
                self._poll()
                return True
            if type(who) is PendingCall and not who.done:
                self._followers.append(who)
            return False

    def hand_on(self) -> bool:
        """Reader: let another one read.  False: the connection is given up, and the reader is to end it."""
        with self.lock:
            if self.holder is GONE:
                return True
            if self._sender.fate is not None:
                return False
            self._calls += type(self.holder) is PendingCall
            self.holder = None
            self._appoint()
            if self._calls >= HOT_AFTER and not self._looking and self._loop.runs_itself:
                self._looking = True
                self._loop.door(self._look_at_calls)
            self._poll()
            return True

    def withdraw(self, pending: PendingCall) -> None:
        """Its thread, which a signal took away, waits no more."""
        with self.lock:
            if self.holder is pending:
                pending.wakeup = None  # whether it is acquired is not known
            elif pending in self._followers:
                self._followers.remove(pending)

    def fill(self) -> None:
        """Appoint somebody, should nobody be the reader."""
        with self.lock:
            if self.holder is None:
                self._appoint()
                self._poll()

    def end(self) -> None:
        """Reader: nobody reads any more."""
        with self.lock:
            self.holder = GONE
            self._followers.clear()

    def orphan(self) -> None:
        """In a process that was forked: nobody reads here."""
        self.lock = self._loop.runtime.lock()
        self.holder = GONE

    def finish(self, pending: PendingCall) -> None:
        """Reader: the reply, or an error, is in `pending`; its thread may go on."""
        if self.hot and pending is not self.holder and pending.wakeup is not None:
            self._sender.woken.add(pending)
        pending.finish()

    def want_write(self, wanted: bool) -> None:
        """Have the loop tell when the socket takes more, or no longer.  Under the sender's lock, so that it
        agrees with the queue."""
        with self.lock:
            self._write_wanted = wanted
            self._poll()

    def _appoint(self) -> None:
        # Under the lock, while nobody is the reader.
        while self._followers:
            follower = self._followers.popleft()
            if not follower.done:
                self.holder = follower
                follower.wakeup.release()
                break

    def _poll(self) -> None:
        # Under the lock.
        if self._channel.closed or not self._listening:
            return
        mask = READ if self.holder is LOOP or self.holder is None and not self.hot else 0
        if self._write_wanted:
            mask |= WRITE
        if mask != self._mask:
            self._loop.set_interest(self._channel.fd, mask)
            self._mask = mask

    def _look_at_calls(self) -> None:
        # Loop thread.
        with self.lock:
            calls, self._calls = self._calls, 0
            self.hot = self._looking = calls >= HOT_CALLS and not self._channel.closed
            self._poll()
            again = self.hot
        self._sender.forget_woken()
        if again:
            self._loop.call_later(HOT_INTERVAL_S, self._look_at_calls)
