"""Which database a storage is, and whether a transaction is one of its past (C22).

In: a storage.  Out: an identity, which is written down beside the file of a FileStorage and told to clients;
the answer to "was there ever a transaction with this tid?", for which the file is read.  Of other storages
it knows that it does not know: they may forget transactions, or share a database with other servers.

The identity is random and lies in a file of its own, ``Data.fs.identity``, because nothing in a FileStorage
stays: a pack removes the first transaction as any other.  It may be lost, with a copy of ``Data.fs`` alone
say.  So to clients a new identity means nothing as long as their last transaction is in the file; together
with one that cannot be found it is another database.
"""
from __future__ import annotations

import logging
from itertools import islice
from typing import Any

from ZODB.utils import z64

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.server.backend.finished import transactions
from zeo_clone.server.backend.iterators import end

log = logging.getLogger(__name__)

#: Beside the file of a FileStorage: its identity in hex, and a newline.
SUFFIX = '.identity'
#: Bytes of an identity.
SIZE = 16
#: The status of a transaction that has been through a pack, which may have removed the ones beside it.
PACKED = 'p'


def last_transaction(storage: Any, abilities: Abilities, recent: list[tuple[bytes, list[bytes]]]) -> bytes:
    """The tid of the last transaction, z64 if there is none.  `recent`: the last ones, if the storage tells.

    A FileStorage that was killed while it committed calls the tid of what it was committing the last one,
    until it is opened once more.  A client must not take that for a transaction.
    """
    last: bytes = storage.lastTransaction() or z64
    if abilities.file is None or not abilities.has('lastInvalidations'):
        return last
    return max((tid for tid, _ in recent), default=z64)


def unfinished(storage: Any, abilities: Abilities, last: bytes) -> bytes | None:
    """That tid, if there is one, of a storage just opened whose last transaction is `last`."""
    called: bytes = storage.lastTransaction() or z64
    return called if abilities.file is not None and called > last else None


def identity(storage: Any, abilities: Abilities, runtime: Runtime) -> str | None:
    """The identity of the database in `storage`, made if it has none yet; None if there can be none."""
    path = abilities.file
    if path is None:
        return None
    path += SUFFIX
    try:
        found = _read(path, runtime)
        if found is None and not storage.isReadOnly():
            found = runtime.randbytes(SIZE).hex()
            _write(path, found, runtime)
    except OSError as error:
        log.warning('%s cannot be used: %s. Clients know this database by its transactions only.', path,
                    error)
        return None
    return found


def _read(path: str, runtime: Runtime) -> str | None:
    try:
        with runtime.open(path, 'rb') as file:
            text = file.read(2 * SIZE + 2).strip()
    except FileNotFoundError:
        return None
    try:
        whole = len(bytes.fromhex(text.decode('ascii'))) == SIZE
    except ValueError:
        whole = False
    return text.decode('ascii') if whole else None


def _write(path: str, text: str, runtime: Runtime) -> None:
    """All or nothing: whoever has the storage open is alone with it."""
    new = f'{path}.{text}'
    with runtime.open(new, 'wb') as file:
        file.write(text.encode('ascii') + b'\n')
        file.flush()
        runtime.fsync(file.fileno())
    runtime.rename(new, path)


def has_transaction(storage: Any, before: bytes, tid: bytes) -> bool | None:
    """Worker thread: is `tid`, which is later than `before`, a transaction of a FileStorage?  `before` is.

    None: it may have been one that a pack has removed.  That has not happened if `before` is as it was.
    """
    later = transactions(storage, before)
    try:
        found = [(transaction.tid, transaction.status) for transaction in islice(later, 2)]
    finally:
        end(later)
    if tid in (other for other, _ in found):
        return True
    known = bool(found) and found[0][0] == before and found[0][1] != PACKED
    return False if known else None
