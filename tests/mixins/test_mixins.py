"""ZODB's public mixins against a ClientStorage and a real server process: C5 and the storage interface.

C5: the races of ``racetest`` run with the test's own client and with external ones, several rounds.
"""
from __future__ import annotations

from ZODB.tests.BasicStorage import BasicStorage
from ZODB.tests.ConflictResolution import (
    ConflictResolvingStorage,
    ConflictResolvingTransUndoStorage,
)
from ZODB.tests.HistoryStorage import HistoryStorage
from ZODB.tests.MTStorage import MTStorage
from ZODB.tests.PackableStorage import PackableStorage, PackableUndoStorage
from ZODB.tests.PersistentStorage import PersistentStorage
from ZODB.tests.ReadOnlyStorage import ReadOnlyStorage
from ZODB.tests.RevisionStorage import RevisionStorage
from ZODB.tests.Synchronization import SynchronizedStorage
from ZODB.tests.TransactionalUndoStorage import TransactionalUndoStorage

from tests.mixins.adapter import collected
from tests.mixins.base import OverFileStorage, OverMappingStorage

RACE_ROUNDS = 3

#: ZODB runs these under a faked clock; they compare times of this process with the server's.
PACK_TIMES = ['PackWhileWriting', 'PackNowWhileWriting', 'PackLotsWhileWriting']
PACK_AND_UNDO_TIMES = [*PACK_TIMES, 'RedundantPack', 'PackUndoLog']

MAPPING_STORAGE_LEFT_OUT = {
    'LoadBeforeUndo': 'MappingStorage cannot undo',
}


def without_iteration():
    """Tests that pass without a look at anything, as long as ClientStorage has no ``iterator``."""
    from zeo_clone.ClientStorage import ClientStorage
    if hasattr(ClientStorage, 'iterator'):
        return {}
    return {'TransactionalUndoIterator': 'iteration over the wire has an issue of its own'}


@collected(left_out=without_iteration(),
           real_clock=PACK_AND_UNDO_TIMES, race_rounds=RACE_ROUNDS)
class TestFileStorage(
    OverFileStorage, BasicStorage, MTStorage, SynchronizedStorage, RevisionStorage, HistoryStorage,
    PersistentStorage, ReadOnlyStorage, ConflictResolvingStorage, ConflictResolvingTransUndoStorage,
    PackableStorage, PackableUndoStorage, TransactionalUndoStorage,
):
    pass


@collected(left_out=MAPPING_STORAGE_LEFT_OUT, real_clock=PACK_TIMES, race_rounds=RACE_ROUNDS)
class TestMappingStorage(
    OverMappingStorage, BasicStorage, MTStorage, SynchronizedStorage, RevisionStorage,
    HistoryStorage, PersistentStorage, ReadOnlyStorage, PackableStorage,
):
    """Without the mixins of undo and conflict resolution, of which MappingStorage knows nothing."""
