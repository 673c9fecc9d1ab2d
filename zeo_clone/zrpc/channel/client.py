"""The client's end of a connection: joins a `ClientCore` to a socket, for any number of threads.

A caller writes to the socket itself, on a busy connection together with what others want to say at the same
moment.  One thread at a time, the *reader*, receives and processes what arrives, in wire order, for all
(leader/followers): it leaves the role when its own reply has come and passes it to a waiting caller or back
to the loop.  So a call costs two switches of processes and none of threads, and all effects of messages
happen in one place, in the reader's role.  What a message means is the handler's business.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from zeo_clone.Exceptions import ClientDisconnected, ClientStorageError
from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.loop.poller import READ, WRITE, Eagerness
from zeo_clone.loop.transport import Transport
from zeo_clone.zrpc.channel.calls import (
    GONE,
    LOOP,
    ClientHandler,
    ConnectionLost,
    Joinable,
    PendingCall,
    Reader,
)
from zeo_clone.zrpc.channel.sending import Sender
from zeo_clone.zrpc.connection import Agreed, Call, ClientCore, Event, Failure, Result

log = logging.getLogger(__name__)

#: Pieces still read from a connection that is given up: more than a socket can have buffered before.
LAST_PIECES = 256
#: A connection on which this many calls are made one after the other becomes *hot*: the loop is not given
#: the read interest back between calls, which would cost two system calls each time ...
HOT_AFTER = 64
#: ... until fewer than these are made ...
HOT_CALLS = 10
#: ... in so many seconds.  For so long at most a notice waits when the calls suddenly end.
HOT_INTERVAL_S = 0.01
#: A step that must not be left half done is tried so often, should one exception of a signal after the other
#: come.
ATTEMPTS = range(20)


def _surely(step: Callable[..., None], *args: Any) -> None:
    """Do a step, which may be done again, although exceptions of signals come; then raise the first."""
    first: BaseException | None = None
    for _ in ATTEMPTS:
        try:
            step(*args)
        except BaseException as error:  # noqa: PERF203 - that is what it is for
            first = first or error
        else:
            break
    if first is not None:
        raise first


class ClientChannel(Dispatcher):
    """One connection to a server."""

    def __init__(self, loop: Loop, transport: Transport, core: ClientCore,
                 handler: ClientHandler, silence_s: float | None = None) -> None:
        super().__init__(loop, transport.socket)
        self.transport = transport
        self.core = core
        self.runtime = loop.runtime
        self._handler = handler
        self._silence_s = silence_s  # a waiting reader tells its handler of so long a silence
        self.sender = Sender(self.runtime, loop.home, transport, self)
        #: ``start_load(oid, tid, call)``: the bytes of a loadBefore that nobody waits for, unless by `join`.
        #: They are for `send_loads`.
        self.start_load = core.send_load
        self._role_lock = self.runtime.lock()  # protects the next eight
        self._reader: PendingCall | Reader | None = None  # None: the loop, once it is readable
        self._followers: deque[PendingCall] = deque()
        self._listening = False  # the loop polls for input while nobody else reads
        self._write_wanted = False
        self._mask = 0
        self._calls = 0  # since the last look at them
        self._hot = False
        self._looking = False  # a look at the calls is planned
        self._eagerness = Eagerness(self.runtime)  # the reader's, as is the next
        self._has_input = self.runtime.input_poll(self.fd)
        self._applying: int | None = None  # the thread that is in a handler or callback
        self._cause: BaseException | None = None  # of its end; from then on nothing is read any more
        self._end_lock = self.runtime.rlock()  # held by who ends it; taken before all others
        self._ended = False
        self.last_received = self.runtime.monotonic()
        self.buried = self.runtime.event()  # set at the very end

    def __repr__(self) -> str:
        return f'<ClientChannel {self.core!r}, reader: {self._reader!r}>'

    # ---- any thread ---------------------------------------------------------------------------

    @property
    def fate(self) -> Exception | None:
        """Why it is closed, or about to be; None while it is in use."""
        return self.sender.fate

    def has_input(self) -> bool:
        """Is something of the server being processed, or waiting for that?"""
        return self._applying is not None or self.closed or self.runtime.wait(self.fd, True, False, 0)

    def is_applying(self) -> bool:
        """Is the calling thread in a callback of this channel?"""
        return self._applying is not None and self._applying == self.runtime.get_ident()

    def call(self, name: str, args: tuple[Any, ...],
             on_reply: Callable[[Any], Any] | None = None) -> Any:
        """Call the server and wait for the reply.

        Raises what the server's method raised, `ClientDisconnected` if the connection is lost, TypeError
        or ValueError if `args` cannot be sent.
        """
        pending = self._new_call(on_reply)
        self.sender.post(self.core.send_call(name, args, pending), self._hot)
        self._wait(pending)
        return pending.result()

    def call_and(self, work: Callable[[], object], name: str, args: tuple[Any, ...],
                 on_reply: Callable[[Any], Any]) -> Any:
        """`call`, and do `work` while the server works."""
        pending = self._new_call(on_reply)
        self.sender.post(self.core.send_call(name, args, pending), self._hot)
        try:
            work()
        except BaseException:
            self._leave(pending)
            raise
        self._wait(pending)
        return pending.result()

    def load(self, oid: bytes, tid: bytes, on_reply: Callable[[Any], Any]) -> Any:
        """`call` of loadBefore, faster.  `oid` and `tid` are 8 bytes."""
        pending = self._new_call(on_reply)
        self.sender.post(self.core.send_load(oid, tid, pending), self._hot)
        self._wait(pending)
        return pending.result()

    def call_async(self, name: str, args: tuple[Any, ...],
                   on_done: Callable[[PendingCall], None],
                   on_reply: Callable[[Any], Any] | None = None) -> None:
        """Call the server; `on_done` gets the finished call, in the reader's role.  Never blocks."""
        self.begin(name, args, PendingCall(None, on_reply, on_done))

    def begin(self, name: str, args: tuple[Any, ...], call: PendingCall) -> None:
        """Call the server; nobody waits, unless by `join`.  Never blocks."""
        self.sender.check_fate()
        self.sender.transmit(self.core.send_call(name, args, call), block=False)

    def send_loads(self, loads: list[bytes]) -> None:
        """Send what `start_load` has made.  Never blocks."""
        self.sender.transmit(b''.join(loads), block=False)

    def join(self, call: Joinable) -> None:
        """Wait until `call` is done."""
        if call.done:
            return
        waiting = self._new_call(None)
        with self._role_lock:  # against others who join
            call.joined = call.joined or []
            call.joined.append(waiting)
        if not call.done:  # asked after joining: whoever finishes it does the two in the other order
            self._wait(waiting)

    def send(self, name: str, args: tuple[Any, ...], flush: bool = False) -> None:
        """Call a method that has no reply.  Small ones are collected and leave with the next call."""
        self.sender.collect(self.core.send_oneway(name, args), flush)

    def store(self, oid: bytes, serial: bytes, data: bytes, transaction_id: int) -> None:
        """`send` of storea, faster.  `oid` and `serial` are 8 bytes."""
        self.sender.collect(self.core.send_store(oid, serial, data, transaction_id), False)

    def send_async(self, data: bytes) -> None:
        """Send bytes that the core has made; nothing if it is closed.  Never blocks."""
        try:
            self.sender.transmit(data, block=False)
        except ClientDisconnected:
            pass

    def abort(self, error: Exception) -> None:
        """Close because of `error`.  Whoever is the reader cleans up; if nobody is, the caller does."""
        self.sender.doom(error)
        me = Reader('a thread that closes it')
        try:
            if self._take_role(me):
                self._pass_role()
        except BaseException:
            _surely(self._finish_leaving, me)
            raise

    def orphan(self) -> None:
        """In a process that was forked: the connection is the parent's; whoever uses it here gets an error.
        """
        super().orphan()
        self.sender.fate = ClientStorageError('this process was forked; the connection is its parent\'s')
        self.sender.lock, self._role_lock = self.runtime.lock(), self.runtime.lock()
        self._end_lock = self.runtime.rlock()
        self._reader = GONE
        self.buried.set()

    def check(self) -> None:
        """Raises what a call would raise before it sends anything."""
        if self.is_applying():
            raise ClientStorageError(
                'a callback of tpc_finish or of an invalidation cannot wait for the server: '
                'it runs while a message of the server is being processed')
        self.sender.check_fate()

    def _new_call(self, on_reply: Callable[[Any], Any] | None) -> PendingCall:
        self.check()
        wakeup = self.runtime.lock()
        wakeup.acquire()
        return PendingCall(wakeup, on_reply)

    def entrust(self, handler: ClientHandler) -> None:
        """Reader's role: from the next message on tell `handler`."""
        self._handler = handler

    # ---- of the sender ------------------------------------------------------------------------

    def wait_for_room(self) -> None:
        """Wait until the socket takes more, for a second at most.  Reads meanwhile if nobody else does: a
        server that cannot get rid of its output reads no input."""
        me = Reader('a thread that sends')
        try:
            reading = self._take_role(me)
            self.runtime.wait(self.fd, reading, True, 1.0)
            if reading:
                self._receive()
                self._pass_role()
        except BaseException:
            _surely(self._finish_leaving, me)
            raise

    def want_write(self, wanted: bool) -> None:
        """Have the loop tell when the socket takes more, or no longer.  Under the sender's lock, so that it
        agrees with the queue."""
        with self._role_lock:
            self._write_wanted = wanted
            self._poll()

    # ---- the reader's role ----------------------------------------------------------------------

    def _wait(self, pending: PendingCall) -> None:
        try:
            if not self._take_role(pending):
                pending.wakeup.acquire()
            while not pending.done:
                if (self._eagerness.look(self._has_input, 0)
                        or self.runtime.wait(self.fd, True, False, self._silence_s)):
                    self._receive()
                else:
                    self._handler.handle_silence()
            self._leave(pending)
        except BaseException:
            # The next one may come where `_surely` is entered or goes on, outside of its own try.
            try:
                _surely(self._finish_leaving, pending)
            except BaseException:
                try:
                    _surely(self._finish_leaving, pending)
                except BaseException:
                    _surely(self._finish_leaving, pending)
            raise

    def _finish_leaving(self, who: PendingCall | Reader) -> None:
        """After an exception of a signal: finish whatever was begun."""
        if type(who) is PendingCall:
            self._leave(who)
        elif self._reader is who:
            self._pass_role()
        with self._role_lock:
            if self._reader is None:
                self._appoint()
                self._poll()
        if self._cause is not None and not self._ended:
            self._bury()

    def _take_role(self, who: PendingCall | Reader) -> bool:
        """Become the reader, or, for a call, queue up for it: then its wakeup will be released."""
        with self._role_lock:
            if self._reader is None:
                self._reader = who
                self._poll()
                return True
            if type(who) is PendingCall and not who.done:
                self._followers.append(who)
            return False

    def _pass_role(self) -> None:
        pieces = 0
        while self._cause is None and not self._hand_on():
            # It is given up, and perhaps nobody else would clean up.  What had arrived still counts.
            pieces += 1
            if not self._receive() or pieces > LAST_PIECES:
                self._cause = self._cause or self.fate
        if self._cause is not None:
            self._bury()  # perhaps a signal has interrupted that

    def _hand_on(self) -> bool:
        with self._role_lock:
            if self._reader is GONE:
                return True
            if self.sender.fate is not None:
                return False
            self._reader = None
            self._appoint()
            self._calls += 1
            if self._calls >= HOT_AFTER and not self._looking and self.loop.runs_itself:
                self._looking = True
                self.loop.door(self._look_at_calls)
            self._poll()
            return True

    def _appoint(self) -> None:
        # Under the role lock, while nobody is the reader.
        while self._followers:
            follower = self._followers.popleft()
            if not follower.done:
                self._reader = follower
                follower.wakeup.release()
                break

    def _leave(self, pending: PendingCall) -> None:
        if not pending.done:
            # A signal ended the wait, of a follower perhaps just when it was given the role.  The reply
            # will be processed when it comes.
            with self._role_lock:
                if self._reader is pending:
                    pending.wakeup = None  # whether it is acquired is not known
                elif pending in self._followers:
                    self._followers.remove(pending)
        if self._reader is pending:  # only its own thread changes that
            self._pass_role()
        elif self.sender.woken:
            self.sender.awake(pending)

    def _poll(self) -> None:
        # Under the role lock.
        if self.closed or not self._listening:
            return
        mask = READ if self._reader is LOOP or self._reader is None and not self._hot else 0
        if self._write_wanted:
            mask |= WRITE
        if mask != self._mask:
            self.loop.set_interest(self.fd, mask)
            self._mask = mask

    def _receive(self) -> bool:
        """Take what has arrived and process it; False if nothing has.  At the end, or a fault: bury."""
        try:
            data = self._apply()
        except BaseException as error:
            # C17: what a message should have done is not done, or half done, or the message is lost.
            # Never go on.  The first step is one that no signal interrupts.
            self._cause = error
            self._bury()
            if not isinstance(error, Exception):
                raise
            return True
        if data == b'':
            self._cause = ConnectionResetError('the server closed the connection')
            self._bury()
        return data is not None

    def _apply(self) -> bytes | None:
        self._applying = self.runtime.get_ident()
        try:
            data = self.transport.receive(self.core.in_bulk)
            if self.transport.queued:
                self.sender.look()
            if data:
                self.last_received = self.runtime.monotonic()
                for event in self.core.receive_data(data):
                    self._process(event)
            return data
        finally:
            self._applying = None

    def _process(self, event: Event | None) -> None:
        kind = type(event)
        if kind is Result:
            pending, value = event  # type: ignore[misc]
            try:
                pending.take(value)
            except BaseException as error:
                # The caller hears of it when the connection has been ended.  What Python raises at Ctrl-C
                # is no other thread's business.
                if pending is self._reader or isinstance(error, Exception):
                    pending.error = error
                raise
            self._finish(pending)
        elif kind is Failure:
            pending = event.token  # type: ignore[union-attr]
            pending.error = event.error  # type: ignore[union-attr]
            self._finish(pending)
        elif kind is Call:
            self._handler.handle_notice(event.name, event.args)  # type: ignore[union-attr]
        elif kind is Agreed:
            self._handler.handle_agreed(event.protocol)  # type: ignore[union-attr]

    def _finish(self, pending: PendingCall) -> None:
        if self._hot and pending is not self._reader and pending.wakeup is not None:
            self.sender.woken.add(pending)
        pending.finish()

    def _bury(self) -> None:
        """Reader's role: close the descriptor, tell the handler, fail the waiting calls."""
        cause = self._cause
        self.sender.doom(cause if isinstance(cause, Exception) else ClientStorageError(repr(cause)))
        # Whoever is interrupted here comes again when it leaves; so every step may be done twice.
        with self._end_lock:
            fate = self.sender.fate
            if self._ended or fate is None:
                return
            with self.sender.lock, self._role_lock:
                self.close()
            self.core.close()
            try:
                _surely(self._handler.handle_lost, fate)
            except Exception as error:
                self.loop.throttle.report(log, logging.ERROR, f'end: {type(error)}', '',
                                          '%r: the handler of its end failed', self, error=error)
            finally:
                self._fail_all(fate)

    def _fail_all(self, fate: Exception) -> None:
        with self._role_lock:
            self._reader = GONE
            self._followers.clear()
        for pending in self.core.abandon():
            if pending.done:
                continue
            if pending.error is None:
                pending.error = ConnectionLost(f'the connection was lost: {fate}')
            try:
                self._finish(pending)
            except Exception as error:
                if not pending.done:  # a signal's
                    raise
                # The others must not wait for ever because of this one.
                self.loop.throttle.report(log, logging.ERROR, f'call: {type(error)}', '',
                                          '%r: the end of a call failed', self, error=error)
        self._ended = True
        self.buried.set()

    # ---- loop thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Let the loop read while no caller does."""
        with self._role_lock:
            if not self.closed:
                self.loop.register(self)
                self._listening = True
                self._poll()

    def _look_at_calls(self) -> None:
        with self._role_lock:
            calls, self._calls = self._calls, 0
            self._hot = self._looking = calls >= HOT_CALLS and not self.closed
            self._poll()
            again = self._hot
        self.sender.forget_woken()
        if again:
            self.loop.call_later(HOT_INTERVAL_S, self._look_at_calls)

    def handle_read(self) -> None:
        try:
            if self._take_role(LOOP):
                self._receive()
                self._pass_role()
        except BaseException:
            _surely(self._finish_leaving, LOOP)
            raise

    def handle_write(self) -> None:
        self.sender.go_on()

    def handle_close(self) -> None:
        self.abort(ClientDisconnected('the event loop ends'))

    def handle_error(self, error: Exception) -> None:
        self.abort(error)
