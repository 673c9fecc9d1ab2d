"""ZODB's public mixins against a ClientStorage and a real server process: C5 and the storage interface.

C5: the races of ``racetest`` run with the test's own client and with external ones, several rounds.

What runs where.  All that a storage can do runs over TCP; a unix socket, the place of conflict
resolution and transformed records get the mixins on which they could have an effect.

    storage   address  resolution  records   mixins
    File      TCP      server      plain     all
    Mapping   TCP      server      plain     all but undo, conflict resolution, recovery: it has none
    Demo      TCP      server      plain     those that ZODB runs on it
    File      unix     server      plain     basic, threads, synchronisation, persistence, iteration, undo
    Mapping   unix     server      plain     basic, pack
    Demo      unix     clients     plain     basic, conflicts
    File      TCP      clients     plain     conflicts, also in undo; undo, revisions
    File      unix     clients     plain     conflicts, also in undo; undo
    Mapping   TCP      clients     plain     conflicts: that the storage cannot resolve any does not matter
    Demo      TCP      clients     plain     conflicts
    File      TCP      server      hex       all that read, write, resolve, undo, pack or copy records
    File      TCP      server      hex by clients   the same
    File      unix     clients     hex by clients   conflicts, also in undo; undo
    Mapping   TCP      server      hex       revisions, pack, iteration
    Demo      TCP      server      hex       revisions, pack, iteration, conflicts

Of other storages than files, over a unix socket, with conflicts resolved or records transformed by clients,
the mixins do what they do over TCP with a FileStorage and a server that resolves: these are marked ``once``,
for one Python.

Blobs and external garbage collection are in ``test_blob_suite.py``.
"""
from __future__ import annotations

import os

import pytest
from ZODB.tests.BasicStorage import BasicStorage
from ZODB.tests.ConflictResolution import (
    ConflictResolvingStorage,
    ConflictResolvingTransUndoStorage,
)
from ZODB.tests.HistoryStorage import HistoryStorage
from ZODB.tests.IteratorStorage import ExtendedIteratorStorage, IteratorStorage
from ZODB.tests.MTStorage import MTStorage
from ZODB.tests.PackableStorage import PackableStorage, PackableUndoStorage
from ZODB.tests.PersistentStorage import PersistentStorage
from ZODB.tests.ReadOnlyStorage import ReadOnlyStorage
from ZODB.tests.RecoveryStorage import RecoveryStorage
from ZODB.tests.RevisionStorage import RevisionStorage
from ZODB.tests.Synchronization import SynchronizedStorage
from ZODB.tests.TransactionalUndoStorage import TransactionalUndoStorage

from tests.mixins.adapter import collected
from tests.mixins.base import (
    HexOnClient,
    HexOnServer,
    OverDemoStorage,
    OverFileStorage,
    OverMappingStorage,
    OverUnixSocket,
    ResolvedByClients,
    WithDestination,
)

RACE_ROUNDS = 3
#: It takes as long as all the others of its class: one round in each of those that have it, unless heavy.
DISCONNECT = '_race_external_invalidate_vs_disconnect'
LONG_RACES = [] if os.environ.get('ZEO_CLONE_HEAVY') else [DISCONNECT]
SEEN_ELSEWHERE = dict.fromkeys(
    LONG_RACES, 'it runs with a FileStorage over TCP and a unix socket, and if heavy here')

#: ZODB runs these under a faked clock; they compare times of this process with the server's.
PACK_TIMES = ['PackWhileWriting', 'PackNowWhileWriting', 'PackLotsWhileWriting']
PACK_AND_UNDO_TIMES = [*PACK_TIMES, 'RedundantPack', 'PackUndoLog']
RECOVERY_TIMES = ['PackWithGCOnDestinationAfterRestore']

NO_UNDO = 'this storage cannot undo'
REVISIONS_WITHOUT_UNDO = {'LoadBeforeUndo': NO_UNDO}
ITERATION_WITHOUT_UNDO = {'UndoZombie': NO_UNDO}
WITHOUT_UNDO = {**REVISIONS_WITHOUT_UNDO, **ITERATION_WITHOUT_UNDO}


@collected(real_clock=PACK_AND_UNDO_TIMES, race_rounds=RACE_ROUNDS, one_round=LONG_RACES)
class TestFileStorage(
    OverFileStorage, BasicStorage, MTStorage, SynchronizedStorage, RevisionStorage, HistoryStorage,
    PersistentStorage, ReadOnlyStorage, ConflictResolvingStorage, ConflictResolvingTransUndoStorage,
    PackableStorage, PackableUndoStorage, TransactionalUndoStorage, IteratorStorage,
    ExtendedIteratorStorage,
):
    pass


@collected(real_clock=RECOVERY_TIMES)
class TestFileStorageRecovery(WithDestination, OverFileStorage, RecoveryStorage):
    pass


@pytest.mark.once
@collected(left_out={**WITHOUT_UNDO, **SEEN_ELSEWHERE}, real_clock=PACK_TIMES, race_rounds=RACE_ROUNDS)
class TestMappingStorage(
    OverMappingStorage, BasicStorage, MTStorage, SynchronizedStorage, RevisionStorage,
    HistoryStorage, PersistentStorage, ReadOnlyStorage, PackableStorage, IteratorStorage,
    ExtendedIteratorStorage,
):
    """Without the mixins of undo, recovery and conflict resolution, which MappingStorage does not know."""


@pytest.mark.once
@collected(left_out={**WITHOUT_UNDO, **SEEN_ELSEWHERE}, real_clock=PACK_TIMES)
class TestDemoStorage(
    OverDemoStorage, BasicStorage, MTStorage, SynchronizedStorage, RevisionStorage, HistoryStorage,
    ConflictResolvingStorage, PackableStorage, IteratorStorage, ExtendedIteratorStorage,
):
    pass


# ---- unix sockets ------------------------------------------------------------------------------------

@pytest.mark.once
@collected()
class TestFileStorageUnix(
    OverUnixSocket, OverFileStorage, BasicStorage, MTStorage, SynchronizedStorage, PersistentStorage,
    TransactionalUndoStorage, IteratorStorage, ExtendedIteratorStorage,
):
    pass


@pytest.mark.once
@collected(left_out=SEEN_ELSEWHERE, real_clock=PACK_TIMES)
class TestMappingStorageUnix(OverUnixSocket, OverMappingStorage, BasicStorage, PackableStorage):
    pass


@pytest.mark.once
@collected(left_out=SEEN_ELSEWHERE)
class TestDemoStorageUnixResolvedByClients(
    ResolvedByClients, OverUnixSocket, OverDemoStorage, BasicStorage, ConflictResolvingStorage,
):
    pass


# ---- conflicts resolved by clients -------------------------------------------------------------------

@pytest.mark.once
@collected()
class TestFileStorageResolvedByClients(
    ResolvedByClients, OverFileStorage, RevisionStorage, ConflictResolvingStorage,
    ConflictResolvingTransUndoStorage, TransactionalUndoStorage,
):
    pass


@pytest.mark.once
@collected()
class TestFileStorageUnixResolvedByClients(
    ResolvedByClients, OverUnixSocket, OverFileStorage, ConflictResolvingStorage,
    ConflictResolvingTransUndoStorage, TransactionalUndoStorage,
):
    pass


@pytest.mark.once
@collected()
class TestMappingStorageResolvedByClients(
    ResolvedByClients, OverMappingStorage, ConflictResolvingStorage,
):
    pass


@pytest.mark.once
@collected()
class TestDemoStorageResolvedByClients(ResolvedByClients, OverDemoStorage, ConflictResolvingStorage):
    pass


# ---- transformed records -----------------------------------------------------------------------------

@collected(real_clock=PACK_AND_UNDO_TIMES)
class TestHexOnServer(
    HexOnServer, OverFileStorage, SynchronizedStorage, RevisionStorage, HistoryStorage,
    ConflictResolvingStorage, ConflictResolvingTransUndoStorage, PackableStorage, PackableUndoStorage,
    TransactionalUndoStorage, IteratorStorage, ExtendedIteratorStorage,
):
    pass


@collected(real_clock=RECOVERY_TIMES)
class TestHexOnServerRecovery(WithDestination, HexOnServer, OverFileStorage, RecoveryStorage):
    pass


@pytest.mark.once
@collected(real_clock=PACK_AND_UNDO_TIMES)
class TestHexOnClient(
    HexOnClient, OverFileStorage, SynchronizedStorage, RevisionStorage, HistoryStorage,
    ConflictResolvingStorage, ConflictResolvingTransUndoStorage, PackableStorage, PackableUndoStorage,
    TransactionalUndoStorage, IteratorStorage, ExtendedIteratorStorage,
):
    pass


@pytest.mark.once
@collected(real_clock=RECOVERY_TIMES)
class TestHexOnClientRecovery(WithDestination, HexOnClient, OverFileStorage, RecoveryStorage):
    pass


@pytest.mark.once
@collected()
class TestHexOnClientUnixResolvedByClients(
    ResolvedByClients, OverUnixSocket, HexOnClient, OverFileStorage, ConflictResolvingStorage,
    ConflictResolvingTransUndoStorage, TransactionalUndoStorage,
):
    pass


@pytest.mark.once
@collected(left_out=WITHOUT_UNDO, real_clock=PACK_TIMES)
class TestMappingStorageHexOnServer(
    HexOnServer, OverMappingStorage, RevisionStorage, PackableStorage, IteratorStorage,
    ExtendedIteratorStorage,
):
    pass


@pytest.mark.once
@collected(left_out=WITHOUT_UNDO, real_clock=PACK_TIMES)
class TestDemoStorageHexOnServer(
    HexOnServer, OverDemoStorage, RevisionStorage, PackableStorage, IteratorStorage,
    ExtendedIteratorStorage, ConflictResolvingStorage,
):
    pass
