"""N14: the server is killed (-9) before, inside and after each step of a commit, and started again."""
from __future__ import annotations

import os
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, z64

from tests.client.fake_server import p64
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

pytestmark = pytest.mark.long

#: Two thousand in the heavy run.
CYCLES = 2000 if os.environ.get('ZEO_CLONE_HEAVY') else 24
OIDS = [p64(1), p64(2)]
STEPS = ('begun', 'stored', 'voting', 'voted', 'finishing', 'finished')


class Killer:
    """Kills the server at one step of a commit, in the same thread or while the step is under way, and
    starts it again meanwhile."""

    def __init__(self, process, step):
        self._process = process
        self._step = step
        self._thread = None

    def at(self, step):
        if step != self._step:
            return
        if step.endswith('ing'):
            self._thread = threading.Thread(target=self._kill_and_start)
        else:
            self._process.kill()
            self._thread = threading.Thread(target=self._process.start)
        self._thread.start()

    def _kill_and_start(self):
        self._process.kill()
        self._process.start()

    def join(self):
        self._thread.join()


def commit(storage, killer, serial, value):
    """The outcome: a tid, None for "nothing was committed", or the exception that says "unknown"."""
    meta = TransactionMetaData()
    try:
        storage.tpc_begin(meta)
        killer.at('begun')
        for oid in OIDS:
            storage.store(oid, serial, value, '', meta)
        killer.at('stored')
        killer.at('voting')
        storage.tpc_vote(meta)
        killer.at('voted')
        killer.at('finishing')
        return storage.tpc_finish(meta)
    except ClientDisconnected:
        storage.tpc_abort(meta)
        return None
    except CommitOutcomeUnknown as error:
        return error


def stored(storage):
    """What a fresh look at the server shows: the same for both objects, or a transaction was torn."""
    found = set()
    for oid in OIDS:
        try:
            found.add(storage.loadBefore(oid, maxtid)[:2])
        except POSKeyError:  # noqa: PERF203
            found.add((b'', z64))
    state, = found
    return state


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs kill -9')
def test_the_server_is_killed_at_each_step(server_process, client):
    """N14, C11: acknowledged is there; refused is not; unknown is whole or absent; the client goes on."""
    storage = client(server_process.address, cache_size=0, wait_timeout=20, max_disconnect_poll=0.05)
    value, serial = b'', z64
    seen = set()
    for cycle in range(CYCLES):
        step = STEPS[cycle % len(STEPS)]
        killer = Killer(server_process, step)
        new = b'%d' % cycle
        outcome = commit(storage, killer, serial, new)
        killer.at('finished')
        killer.join()
        data, tid = stored(storage)
        seen.add((step, type(outcome).__name__))
        if type(outcome) is bytes:
            assert (data, tid) == (new, outcome)
        elif outcome is None:
            assert (data, tid) == (value, serial)
        else:
            assert data in (new, value)
        value, serial = data, tid
    assert {('begun', 'NoneType'), ('voted', 'NoneType'), ('finished', 'bytes')} <= seen
