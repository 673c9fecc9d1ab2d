"""What the wings of the server hand each other: a transaction's words, what a method is, and the
errors that several know.

Plain values; nothing here does anything, or knows who made it.
"""
from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from zeo_clone.wording import quoted

if TYPE_CHECKING:
    from zeo_clone.zrpc.connection import Call

#: Oids of objects that are written are less than this, 2**63 (C25).
END_OF_OIDS = b'\x80' + bytes(7)


class Meta(NamedTuple):
    """What a client said at ``tpc_begin``.  ``id``: int, str or bytes.  ``tid``: 8 bytes or None."""

    id: int | str | bytes
    user: str | bytes
    description: str | bytes
    extension: dict[Any, Any] | bytes  # an object, or its pickle
    tid: bytes | None
    status: str

    def __str__(self) -> str:
        return f'user {quoted(self.user)}, description {quoted(self.description, 200)}'


class Operation(NamedTuple):
    """One step of a transaction.  Unused fields are None."""

    verb: str
    oid: bytes | None = None
    serial: bytes | None = None
    data: bytes | None = None
    extra: Any = None


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


class BadArgument(ValueError):
    """An argument has the wrong type, length or range."""


class Refused(ValueError):
    """A call that makes no sense at this moment."""


class TooBusy(Exception):
    """So much waits already that this is not taken."""


class NothingCommitted(Exception):
    """``tpc_finish`` was not possible, or has failed, and it is proven that nothing was committed."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause
