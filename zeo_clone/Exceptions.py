"""The exceptions of zeo_clone: what an application may have to catch.

Floor 0: vocabulary, imported by every other floor.  Errors of the storage itself (conflicts, unknown
keys, read-only) are ZODB's own classes from ``ZODB.POSException`` and arrive unchanged.
"""
from __future__ import annotations

import transaction.interfaces
from ZODB.POSException import StorageError

__all__ = [
    'ClientDisconnected', 'ClientStorageError', 'CommitOutcomeUnknown', 'MessageTooLarge', 'ProtocolError',
    'ServerException', 'UnrecognizedResult',
]


class ClientStorageError(StorageError):
    """The client could not do what it was asked to do; base class of the client's own errors."""


class UnrecognizedResult(ClientStorageError):
    """The server answered a call with a value that the call cannot have."""


class ClientDisconnected(ClientStorageError, transaction.interfaces.TransientError):
    """There is no connection to a server.

    The work was certainly not committed, so a transaction may be repeated: it is a ``TransientError``.
    """


class CommitOutcomeUnknown(ClientStorageError):
    """The connection was lost during ``tpc_finish``, or the server failed: it may or may not be committed.

    Never transient: repeating the work could do it twice.  Look at the data before you go on.
    """


class MessageTooLarge(ClientStorageError):
    """An object is larger than what the server takes in a message; nothing of it was sent (N19).

    Never transient: it would be as large the next time.
    """


class ProtocolError(ClientStorageError):
    """The peer sent something that is not the protocol, or speaks a protocol that we do not."""


class ServerException(ClientStorageError):
    """An exception of a class that has no place in the protocol's table was raised on the server.

    ``class_name`` is its dotted name there, ``state`` its arguments or attributes.
    """

    def __init__(self, class_name: str = '', state: object = ()) -> None:
        super().__init__(class_name, state)
        self.class_name = class_name
        self.state = state

    def __str__(self) -> str:
        return f'{self.class_name}: {self.state!r}'
