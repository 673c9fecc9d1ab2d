"""The end of a client's connection: one thing, whoever wanted it and why (C16).

It is done in the reader's role, by whichever thread has it.  Its order: no bytes leave, the descriptor is
closed, the handler is told, nobody reads any more, the waiting calls fail, and those that wait for the end
itself go on.  An exception of a signal may come in between; then all of it is done once more, from the start
(see `signals`).
"""
from __future__ import annotations

import logging

from zeo_clone.Exceptions import ClientStorageError
from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.zrpc.channel.calls import ClientHandler, ConnectionLost
from zeo_clone.zrpc.channel.role import Role
from zeo_clone.zrpc.channel.sending import Sender
from zeo_clone.zrpc.channel.signals import surely
from zeo_clone.zrpc.connection import ClientCore

log = logging.getLogger(__name__)


class End:
    """Of one connection."""

    def __init__(self, channel: Dispatcher, core: ClientCore, sender: Sender, role: Role) -> None:
        self._channel = channel
        self._core = core
        self._sender = sender
        self._role = role
        #: Why it is to come.  Set by the reader, in a single step: from then on nothing is read any more.
        self.cause: BaseException | None = None
        self._lock = channel.loop.runtime.rlock()  # held by who does it; taken before all others
        self._done = False
        #: Set at the very end.
        self.buried = channel.loop.runtime.event()

    @property
    def is_due(self) -> bool:
        """Has it begun, and not been done?"""
        return self.cause is not None and not self._done

    def bury(self, handler: ClientHandler) -> None:
        """Reader, once there is a cause."""
        cause = self.cause
        self._sender.doom(cause if isinstance(cause, Exception) else ClientStorageError(repr(cause)))
        with self._lock:
            fate = self._sender.fate
            if self._done or fate is None:
                return
            with self._sender.lock, self._role.lock:
                self._channel.close()
            self._core.close()
            try:
                surely(handler.handle_lost, fate)
            except Exception as error:
                self._channel.loop.throttle.report(
                    log, logging.ERROR, f'end: {type(error)}', '',
                    '%r: the handler of its end failed', self._channel, error=error)
            finally:
                self._fail_all(fate)

    def _fail_all(self, fate: Exception) -> None:
        self._role.end()
        for pending in self._core.abandon():
            if pending.done:
                continue
            if pending.error is None:
                pending.error = ConnectionLost(f'the connection was lost: {fate}')
            try:
                self._role.finish(pending)
            except Exception as error:
                if not pending.done:  # a signal's
                    raise
                # The others must not wait for ever because of this one.
                self._channel.loop.throttle.report(
                    log, logging.ERROR, f'call: {type(error)}', '',
                    '%r: the end of a call failed', self._channel, error=error)
        self._done = True
        self.buried.set()

    def orphan(self) -> None:
        """In a process that was forked: there is nothing to end."""
        self._lock = self._channel.loop.runtime.rlock()
        self.buried.set()
