"""One call, exactly one reply (S3): finds the method, checks the arguments, answers now or later.

In: calls of one client.  Out: replies and errors, in the words of the client's protocol; ProtocolError for
what closes the connection; what is left of the work, if that takes long.  Loop thread only.  It knows no
storage: what a method does is its own business.
"""
from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import GeneratorType
from typing import Any, NamedTuple, Protocol

from transaction.interfaces import TransientError
from ZODB.POSException import POSError, StorageError

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.server.clients.peer import Peer
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import BadArgument, TooBusy
from zeo_clone.zrpc import marshal
from zeo_clone.zrpc.channel.server import ServerChannel, describe
from zeo_clone.zrpc.connection import Call

log = logging.getLogger(__name__)

#: What a call costs that is answered later, besides its arguments.
CALL_OVERHEAD = 500


class Refused(ValueError):
    """A call that makes no sense at this moment."""


#: Exceptions that belong to ordinary work: the client gets them, the log has them at DEBUG (L4).
ORDINARY = (POSError, KeyError, Refused, BadArgument, TransientError, TooBusy)


class Kind(enum.Enum):
    """How a method is called and what happens when it fails."""

    CALL = enum.auto()      # two-way; the client gets the exception
    ONEWAY = enum.auto()    # an exception closes the connection
    BUFFERED = enum.auto()  # one-way, part of a transaction: a bad argument is told at the vote


class Method(NamedTuple):
    """An entry of the table: the checks of all arguments, of which the first `required` must be there.

    `usual`: the same for the form in which sites call it all the time, without the general checks; it does
    nothing and returns False if a call has another form.
    """

    function: Callable[..., Any]
    kind: Kind
    required: int
    checks: tuple[Callable[[Any], Any], ...]
    usual: Callable[[Any, Call], bool] | None = None


class Callee(Protocol):
    """Whose methods are called."""

    def find(self, name: str) -> Method | None:
        """A method that is in no table."""

    def doom(self, error: Exception) -> bool:
        """An operation was bad: remember that until the vote.  False if there is nothing to doom."""


class Calls:
    """Of the client `peer` at the other end of `channel`."""

    def __init__(self, channel: ServerChannel, peer: Peer) -> None:
        self._channel = channel
        self._core = channel.core
        self._share = channel.share
        self._peer = peer

    def __repr__(self) -> str:
        return f'<Calls of {self._peer!r}>'

    def answer(self, callee: Callee, call: Call, method: Method | None) -> Iterator[None] | None:
        """Carry out `call`; what is left of the work for it, if that takes long."""
        message_id, name, args, oneway = call
        if method is None:
            raise ProtocolError(f'it called {name!r}, which is not a method of this server')
        function, kind, required, checks, _ = method
        if not required <= len(args) <= len(checks):
            raise ProtocolError(f'it called {name} with {len(args)} arguments')
        if oneway and kind is Kind.CALL:
            raise ProtocolError(f'it called {name} one-way, but the answer matters')
        try:
            if len(args) == 1:  # as vote and tpc_finish have
                result = function(callee, checks[0](args[0]))
            else:
                result = function(callee, *[check(value) for check, value in zip(checks, args, strict=False)])
        except Exception as error:
            self.refuse(callee, call, kind, error)
            return None
        if oneway:
            return None
        kind_of_result = type(result)
        if kind_of_result is Deferred:
            self.settle(message_id, name, result)
        elif kind_of_result is GeneratorType:
            parts = self._in_parts(message_id, name, result)
            for _ in parts:
                return parts  # it was not all done in the first part
        else:
            self._channel.reply(message_id, result)
        return None

    def settle(self, message_id: Any, name: str, result: Deferred) -> None:
        """Answer with `result`, now or when it is there."""
        if result.settled:
            self._reply(message_id, name, result.value, result.error)
        else:
            size = CALL_OVERHEAD + self._core.frames.length
            self._share.add(size)
            result.when_settled(partial(self._reply_late, size, message_id, name))

    def _in_parts(self, message_id: Any, name: str, parts: Any) -> Iterator[None]:
        """What a method has begun; the reply at its end."""
        try:
            value = yield from parts
        except Exception as error:
            self.fail(message_id, name, error)
        else:
            self._reply(message_id, name, value, None)

    def _reply_late(self, size: int, message_id: Any, name: str, value: Any,
                    error: BaseException | None) -> None:
        self._share.add(-size)
        self._reply(message_id, name, value, error)

    def _reply(self, message_id: Any, name: str, value: Any, error: BaseException | None) -> None:
        if error is not None:
            self.fail(message_id, name, error)
        elif type(value) is marshal.Encoded:
            self._channel.reply_encoded(message_id, value)
        else:
            self._channel.reply(message_id, value)

    def refuse(self, callee: Callee, call: Call, kind: Kind, error: Exception) -> None:
        """The call failed before there was anything to wait for."""
        if isinstance(error, BadArgument):
            error = BadArgument(f'{call.name}: {error}')
            if kind is Kind.BUFFERED and callee.doom(error):
                if not call.oneway:
                    self._channel.reply(call.id, None)
                return
        if call.oneway:
            self.log(call.name, error)
            raise ProtocolError(f'a one-way call of {call.name} failed: {describe(error)}') from error
        self.fail(call.id, call.name, error)

    def fail(self, message_id: Any, name: str, error: BaseException) -> None:
        """The reply is an error."""
        self.log(name, error)
        self._channel.fail(message_id, _for_wire(error))

    def log(self, name: str, error: BaseException) -> None:
        """A call of `name` has failed."""
        if isinstance(error, ORDINARY):
            log.debug('%s: %s: %s', self._peer.name, name, describe(error))
        else:
            self._peer.report(logging.ERROR, f'{name}: {type(error)}', '%s: %s failed', self._peer.name, name,
                              error=error)


def _for_wire(error: BaseException) -> BaseException:
    """Our own exceptions as those that every client has."""
    if isinstance(error, (BadArgument, Refused)):
        return ValueError(str(error))
    return StorageError(str(error)) if isinstance(error, TooBusy) else error
