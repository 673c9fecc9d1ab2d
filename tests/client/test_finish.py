"""Every end of tpc_finish is a tid, "nothing was committed", or "unknown" (C24), whatever fails."""
from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, z64

from tests.client.fake_server import Refuse
from tests.client.test_order import Wrapper
from tests.storage.helpers import store_blob
from tests.support import inside
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

pytestmark = pytest.mark.long

OID = p64(7)
#: Calls that ask or change the world outside, of those into C.  How often `poll` is called, time decides.
SYSTEM = {'send', 'recv', 'modify', 'register', 'unregister', 'pread', 'pwrite', 'fsync', 'shutdown', 'close'}


class Fault:
    """Raises OSError at the k-th call in this thread of a function of ours, or of the system, named `place`.
    Without a place it counts."""

    def __init__(self, callback, place=None, k=1):
        self.calls = Counter()
        self.place = place
        self.k = k
        self.raised = False
        self._callback = callback.__code__

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if event == 'call':
            ours = 'zeo_clone' in code.co_filename or code is self._callback
        else:
            ours = event == 'c_call' and arg.__name__ in SYSTEM
        if not ours:
            return
        place = arg.__name__ if event == 'c_call' else f'{Path(code.co_filename).stem}.{code.co_name}'
        self.calls[place] += 1
        if place == self.place and self.calls[place] == self.k and not self.raised:
            self.raised = True
            raise OSError(28, f'fault in {place}')


def vote(storage, serial=z64, data=b'new'):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, serial, data, '', meta)
    storage.tpc_vote(meta)
    return meta


def finish(storage, meta, **options):
    """The end of tpc_finish with a fault somewhere in it, and the fault."""
    def callback(tid):
        pass

    fault = Fault(callback, **options)
    call = inside.engine(storage).committing.phase._finish

    def faulty(*args):
        sys.setprofile(fault)
        try:
            return call(*args)
        finally:
            sys.setprofile(None)

    inside.engine(storage).committing.phase._finish = faulty
    try:
        return storage.tpc_finish(meta, callback), fault
    except (ClientDisconnected, CommitOutcomeUnknown) as error:
        return error, fault


@pytest.mark.parametrize('named', [True, False], ids=['file', 'temporary'])
def test_a_fault_at_any_call_ends_in_the_truth(new_server, client, tmp_path, named):
    """C24, C11: OSError at the n-th call of everything that takes part, for all n."""
    served = FileStorage(str(tmp_path / 'Data.fs'))
    # Without a thread of its own, so that it is always this one which reads the reply.
    storage = client(new_server({'1': served}).addr, wait_timeout=20, io_thread=False,
                     cache=str(tmp_path / 'c.zec') if named else None)
    data, serial = b'first', storage.tpc_finish(vote(storage, data=b'first'))
    serial, counted = finish(storage, vote(storage, serial, data))
    places = [(place, k) for place, count in counted.calls.items() if place != 'commit._finish'
              for k in range(1, count + 1)]
    raised = set()
    for place, k in places:
        new = f'{place} {k}'.encode()
        end, fault = finish(storage, vote(storage, serial, new), place=place, k=k)
        if fault.raised:
            raised.add(place)
        found, tid, _ = served.loadBefore(OID, maxtid)
        if type(end) is bytes:
            assert (found, tid) == (new, end), (place, k)
            assert storage.lastTransaction() == end, (place, k)
        else:
            assert type(end) is not CommitOutcomeUnknown, (place, k)  # the server can be asked here
            assert (found, tid) == (data, serial), (place, k)
        assert storage.loadBefore(OID, maxtid)[:2] == (found, tid), (place, k)
        data, serial = found, tid
    assert {'client.call', 'send', 'recv', 'test_finish.callback', 'effects.finish', 'cache.applyCommit',
            'cache.setLastTid'} <= raised
    assert named == ('pwrite' in raised)


class Late(FileStorage):
    """Fails when it has committed."""

    failing = False

    def tpc_finish(self, *args):
        tid = super().tpc_finish(*args)
        if self.failing:
            raise OSError(5, 'Input/output error')
        return tid


class Early(FileStorage):
    """Fails before."""

    failing = False

    def tpc_finish(self, *args):
        if self.failing:
            raise OSError(28, 'No space left on device')
        return super().tpc_finish(*args)


class LateMapping(MappingStorage):
    failing = False

    def tpc_finish(self, *args):
        tid = super().tpc_finish(*args)
        if self.failing:
            raise OSError(5, 'Input/output error')
        return tid


@pytest.mark.parametrize('kind', [Late, Early, LateMapping])
def test_a_storage_that_fails_in_tpc_finish(new_server, client, tmp_path, kind):
    """C24: the server's error is looked into, and no OSError comes out of it."""
    served = kind(str(tmp_path / 'Data.fs')) if kind is not LateMapping else LateMapping()
    storage = client(new_server({'1': served}).addr, wait_timeout=20)
    first = storage.tpc_finish(vote(storage))
    told = []
    meta = vote(storage, first, b'newer')
    served.failing = True
    if kind is not Early:
        tid = storage.tpc_finish(meta, told.append)
        assert told == [tid] == [served.getTid(OID)]
        assert storage.lastTransaction() == tid
    else:
        with pytest.raises(ClientDisconnected, match='there was an error .*nothing was committed.*No space'):
            storage.tpc_finish(meta, told.append)
        assert served.getTid(OID) == first
    served.failing = False
    data, serial, _ = storage.loadBefore(OID, maxtid)
    assert (data, serial) == served.loadBefore(OID, maxtid)[:2]
    assert storage.tpc_finish(vote(storage, serial, b'last')) > first


def test_blobs_that_cannot_be_kept_are_committed(new_server, client, tmp_path, monkeypatch):
    """C24: the cache of blobs fails after the reply."""
    served = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    storage = client(new_server({'1': served}).addr, blob_dir=str(tmp_path / 'cache'))
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    name, *args = store_blob(OID, tmp_path / 'up', b'blob')
    getattr(storage, name)(*args, meta)
    storage.tpc_vote(meta)

    def fail(*args):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(inside.blobs(storage), 'committed', fail)
    tid = storage.tpc_finish(meta)
    with storage.openCommittedBlobFile(OID, tid) as file:
        assert file.read() == b'blob'


def cut(connection, *args):
    connection.cut()
    raise Refuse


@pytest.mark.parametrize('back', [False, True])
def test_what_may_have_been_committed_is_forgotten(fake, connected, back):
    """C11: after CommitOutcomeUnknown nobody reads the old records of what was written; others stay warm."""
    fake.tid = p64(3)
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'old', p64(3), None)
    storage = connected(wait_timeout=0.5)
    db = Wrapper(storage)
    for oid in (OID, p64(8), p64(9)):
        storage.loadBefore(oid, maxtid)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, p64(3), b'new', '', meta)
    storage.undo(b'some transaction', meta)
    fake.answers['vote'] = lambda connection, number: [p64(8)]
    storage.tpc_vote(meta)
    fake.answers['tpc_finish'] = cut
    if not back:
        def refuse(*args):
            raise ValueError('not now')

        fake.answers['register'] = refuse
    with pytest.raises(CommitOutcomeUnknown):
        storage.tpc_finish(meta)
    assert db.told == [(p64(3), [OID, p64(8)])]
    loads = fake.called('loadBefore')
    assert storage.loadBefore(p64(9), maxtid) == (b'old', p64(3), None)
    assert fake.called('loadBefore') == loads
    for oid in (OID, p64(8)):
        if back:
            assert storage.loadBefore(oid, maxtid) == (b'old', p64(3), None)
        else:
            with pytest.raises(ClientDisconnected):
                storage.loadBefore(oid, maxtid)
    assert fake.called('loadBefore') == loads + 2 * back
    assert storage.lastTransaction() == p64(3)
