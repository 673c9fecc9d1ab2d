"""The client's end of a connection: joins a `ClientCore` to a socket, for any number of threads.

A caller writes to the socket itself, on a busy connection together with what others want to say at the same
moment (`sending`).  One thread at a time, the *reader*, receives and processes what arrives, in wire order,
for all (leader/followers); it leaves the role (`role`) when its own reply has come.  So a call costs two
switches of processes and none of threads, and all effects of messages happen in one place, in the reader's
role.  What a message means is the handler's business.

Whoever has the role can be interrupted by a signal: all ways into it go through `guarded` (`signals`).  The
end (`ending`) is the reader's business, too.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zeo_clone.Exceptions import ClientDisconnected, ClientStorageError
from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.loop.poller import Eagerness
from zeo_clone.loop.transport import Transport
from zeo_clone.zrpc.channel.calls import (
    LOOP,
    ClientHandler,
    Joinable,
    PendingCall,
    Reader,
    RegisteredHandler,
)
from zeo_clone.zrpc.channel.ending import End
from zeo_clone.zrpc.channel.role import Role
from zeo_clone.zrpc.channel.sending import Sender
from zeo_clone.zrpc.channel.signals import guarded
from zeo_clone.zrpc.connection import Agreed, Call, Changes, ClientCore, Event, Failure, Result

#: Pieces still read from a connection that is given up: more than a socket can have buffered before.
LAST_PIECES = 256


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
        self._role = Role(self, self.sender)
        self._end = End(self, core, self.sender, self._role)
        self.buried = self._end.buried  # set at the very end
        self._eagerness = Eagerness(self.runtime)  # the reader's, as is the next
        self._has_input = self.runtime.input_poll(self.fd)
        self._applying: int | None = None  # the thread that is in a handler or callback
        self.last_received = self.runtime.monotonic()

    def __repr__(self) -> str:
        return f'<ClientChannel {self.core!r}, reader: {self._role.holder!r}>'

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
        self.sender.post(self.core.send_call(name, args, pending), self._role.hot)
        self._wait(pending)
        return pending.result()

    def call_and(self, work: Callable[[], object], name: str, args: tuple[Any, ...],
                 on_reply: Callable[[Any], Any]) -> Any:
        """`call`, and do `work` while the server works."""
        pending = self._new_call(on_reply)
        self.sender.post(self.core.send_call(name, args, pending), self._role.hot)
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
        self.sender.post(self.core.send_load(oid, tid, pending), self._role.hot)
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
        with self._role.lock:  # against others who join
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
        guarded(self._close_as, self._finish_leaving, Reader('a thread that closes it'))

    def _close_as(self, who: Reader) -> None:
        if self._role.take(who):
            self._pass_role()

    def orphan(self) -> None:
        """Let go of the connection in a process that was forked: it is the parent's; using it is an error."""
        super().orphan()
        self.sender.fate = ClientStorageError('this process was forked; the connection is its parent\'s')
        self.sender.lock = self.runtime.lock()
        self._role.orphan()
        self._end.orphan()

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

    def entrust(self, handler: RegisteredHandler) -> None:
        """Reader's role: from the next message on tell `handler`."""
        self._handler = handler

    # ---- of the sender ------------------------------------------------------------------------

    def wait_for_room(self) -> None:
        """Wait until the socket takes more, for a second at most.  Reads meanwhile if nobody else does: a
        server that cannot get rid of its output reads no input."""
        guarded(self._wait_for_room, self._finish_leaving, Reader('a thread that sends'))

    def _wait_for_room(self, who: Reader) -> None:
        reading = self._role.take(who)
        self.runtime.wait(self.fd, reading, True, 1.0)
        if reading:
            self._receive()
            self._pass_role()

    def want_write(self, wanted: bool) -> None:
        """See `Role.want_write`."""
        self._role.want_write(wanted)

    # ---- the reader's role ----------------------------------------------------------------------

    def _wait(self, pending: PendingCall) -> None:
        guarded(self._read_until_done, self._finish_leaving, pending)

    def _read_until_done(self, pending: PendingCall) -> None:
        if not self._role.take(pending):
            pending.wakeup.acquire()
        while not pending.done:
            if (self._eagerness.look(self._has_input, 0)
                    or self.runtime.wait(self.fd, True, False, self._silence_s)):
                self._receive()
            else:
                self._handler.handle_silence()
        self._leave(pending)

    def _finish_leaving(self, who: PendingCall | Reader) -> None:
        """After an exception of a signal: finish whatever was begun."""
        if type(who) is PendingCall:
            self._leave(who)
        elif self._role.holder is who:
            self._pass_role()
        self._role.fill()
        if self._end.is_due:
            self._bury()

    def _leave(self, pending: PendingCall) -> None:
        if not pending.done:
            # A signal ended the wait, of a follower perhaps just when it was given the role.  The reply
            # will be processed when it comes.
            self._role.withdraw(pending)
        if self._role.holder is pending:  # only its own thread changes that
            self._pass_role()
        elif self.sender.woken:
            self.sender.awake(pending)

    def _pass_role(self) -> None:
        pieces = 0
        while self._end.cause is None and not self._role.hand_on():
            # It is given up, and perhaps nobody else would clean up.  What had arrived still counts.
            pieces += 1
            if not self._receive() or pieces > LAST_PIECES:
                self._end.cause = self._end.cause or self.fate
        if self._end.cause is not None:
            self._bury()  # perhaps a signal has interrupted that

    def _bury(self) -> None:
        self._end.bury(self._handler)

    def _receive(self) -> bool:
        """Take what has arrived and process it; False if nothing has.  At the end, or a fault: bury."""
        try:
            data = self._apply()
        except BaseException as error:
            # C17: what a message should have done is not done, or half done, or the message is lost.
            # Never go on.  The first step is one that no signal interrupts.
            self._end.cause = error
            self._bury()
            if not isinstance(error, Exception):
                raise
            return True
        if data == b'':
            self._end.cause = ConnectionResetError('the server closed the connection')
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
                if pending is self._role.holder or isinstance(error, Exception):
                    pending.error = error
                raise
            self._role.finish(pending)
        elif kind is Failure:
            pending = event.token  # type: ignore[union-attr]
            pending.error = event.error  # type: ignore[union-attr]
            self._role.finish(pending)
        elif kind is Changes:
            self._handler.handle_changes(event.changes)  # type: ignore[attr-defined, union-attr]
        elif kind is Call:
            self._handler.handle_notice(event.name, event.args)  # type: ignore[union-attr]
        elif kind is Agreed:
            self._handler.handle_agreed(event.protocol)  # type: ignore[union-attr]

    # ---- loop thread ----------------------------------------------------------------------------

    def start(self) -> None:
        """Let the loop read while no caller does."""
        self._role.start()

    def handle_read(self) -> None:
        guarded(self._read_as, self._finish_leaving, LOOP)

    def _read_as(self, who: Reader) -> None:
        if self._role.take(who):
            self._receive()
            self._pass_role()

    def handle_write(self) -> None:
        self.sender.go_on()

    def handle_close(self) -> None:
        self.abort(ClientDisconnected('the event loop ends'))

    def handle_error(self, error: Exception) -> None:
        self.abort(error)
