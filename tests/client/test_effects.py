"""Effects with ZODB's own wrapper of a storage, and with caches and callbacks that fail."""
from __future__ import annotations

import threading

import pytest
from ZODB.mvccadapter import MVCCAdapter
from ZODB.utils import p64, u64

from zeo_clone.cache import ClientCache
from zeo_clone.client.effects import NO_DATABASE, Effects
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import Runtime

OLD, NEW = p64(10), p64(20)
OID = p64(7)


class Storage:
    """As much of a storage as `MVCCAdapter` polls."""

    def __init__(self, effects):
        self.lastTransaction = effects.last_transaction


class Steps:
    """ZODB's wrapper; `between` is called before and after each of its methods."""

    def __init__(self, adapter, between):
        self._adapter = adapter
        self._between = between

    def invalidateCache(self):
        self._between()
        self._adapter.invalidateCache()
        self._between()

    def invalidate(self, tid, oids):
        self._between()
        self._adapter.invalidate(tid, oids)
        self._between()


class Connection:
    """What a ZODB connection does at the beginning of a transaction; `has` is when its object was read."""

    def __init__(self, adapter):
        self._instance = adapter.new_instance()
        self.begins()
        self.has = self.tid

    def begins(self):
        changed = self._instance.poll_invalidations()
        self.tid = p64(u64(self._instance._start) - 1)
        if changed is None or OID in changed:
            self.has = self.tid  # it is read anew

    @property
    def is_stale(self):
        """The object was changed by NEW."""
        return self.has < NEW <= self.tid


@pytest.fixture
def cache():
    made = ClientCache(None, 100_000)
    made.setLastTid(OLD)
    made.store(OID, OLD, None, b'old')
    yield made
    made.close()


def with_db(effects, between=lambda: None):
    adapter = MVCCAdapter(Storage(effects))
    effects.db = Steps(adapter, between)
    return adapter


@pytest.mark.parametrize('place', range(8))
def test_no_connection_takes_old_objects_to_a_new_transaction(cache, place):
    """C23, K5: wherever a connection, which has read the old tid, goes on while all is started over."""
    effects, calls = Effects(cache), []

    def between():
        calls.append(effects.last_transaction())
        if len(calls) - 1 == place:
            connection.begins()
            assert not connection.is_stale

    connection = Connection(with_db(effects, between))
    effects.start_over(NEW)
    if place == 7:  # and one that reads the tid afterwards
        connection.begins()
    assert not connection.is_stale
    connection.begins()
    assert connection.tid == connection.has == NEW
    assert calls == [OLD] * 6


def test_last_transaction_never_goes_back_and_waits_for_the_db(cache):
    """C23, C2: while all is started over others wait; they see the old tid or the new one, nothing else."""
    effects = Effects(cache)
    inside, go_on = threading.Event(), threading.Event()

    def between():
        inside.set()
        assert go_on.wait(20)

    with_db(effects, between)
    starting = threading.Thread(target=effects.start_over, args=(NEW,))
    starting.start()
    assert inside.wait(20)
    seen = []
    asking = threading.Thread(target=lambda: seen.append(effects.last_transaction()))
    asking.start()
    assert not seen
    go_on.set()
    asking.join()
    starting.join()
    assert seen == [NEW]
    assert cache.load(OID) is None


def test_spinning_readers_see_two_tids(cache):
    """C23: of many that ask all the time none sees a third one."""
    effects = Effects(cache)
    with_db(effects)
    seen, stop = set(), threading.Event()

    def spin():
        while not stop.is_set():
            seen.add(effects.last_transaction())

    threads = [threading.Thread(target=spin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(11, 200):
        effects.start_over(p64(number))
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= {p64(number) for number in range(10, 200)}


def test_a_dropped_past_may_lead_back_in_one_step(cache):
    """C23, K3: only because the owner said so; open connections begin there, with new objects."""
    effects = Effects(cache)
    connection = Connection(with_db(effects))
    effects.invalidate(NEW, [p64(8)])
    connection.begins()
    effects.start_over(p64(15))
    connection.begins()
    assert effects.last_transaction() == connection.tid == connection.has == p64(15)


def test_what_is_of_another_past_is_not_read(cache):
    """C22: from then on, and no longer when a server is found to which it is the right one."""
    effects = Effects(cache)
    connection = Connection(with_db(effects))
    connection.has = None
    effects.refuse(ValueError('another past'))
    effects.refuse(ValueError('another past'))
    assert effects.applying is not None and not OLD <= effects.applying
    with pytest.raises(ClientDisconnected, match='another past'):
        effects.wait()
    connection.begins()
    assert connection.has == OLD
    effects.verified(NO_DATABASE)
    assert effects.applying is None
    effects.wait()


def test_the_database_is_kept_with_the_cache(cache):
    """C22: a new identity is taken over from a server whose past is the same; none leaves the old one."""
    effects = Effects(cache)
    effects.verified(b'd' * 16)
    effects.verified(NO_DATABASE)
    assert effects.database == b'd' * 16


# ---- after the commit (C24) ---------------------------------------------------------------------

class Failing:
    """A cache whose methods raise, those that are named."""

    def __init__(self, cache, *names):
        self._cache = cache
        self._names = names

    def __len__(self):
        return len(self._cache)

    def __getattr__(self, name):
        if name not in self._names:
            return getattr(self._cache, name)

        def fail(*args):
            if name == 'clear':
                self._cache.clear()
            raise OSError(28, 'No space left on device')

        return fail


@pytest.mark.parametrize('names', [
    ('applyCommit',), ('setLastTid',), ('applyCommit', 'clear'), ('applyCommit', 'setLastTid', 'clear')])
def test_a_cache_that_fails_after_a_commit_goes(cache, names):
    """C24: the committer does not hear of it; nothing old is read."""
    effects = Effects(Failing(cache, *names))
    adapter = with_db(effects)
    connection, told = Connection(adapter), []
    effects.finish(NEW, [(OID, b'new')], told.append)
    assert told == [effects.last_transaction()] == [NEW]
    assert effects.applying is None
    assert cache.load(OID) is None
    connection.begins()
    assert connection.tid >= NEW


def test_a_cache_that_fails_and_stays_ends_the_link(cache):
    """C17: fail closed."""
    effects = Effects(Failing(cache, 'applyCommit'))
    effects.cache.clear = raising
    with pytest.raises(OSError, match='still there'):
        effects.finish(NEW, [(OID, b'new')], None)
    assert effects.last_transaction() == OLD
    dropped = []
    effects.db = type('DB', (), {'invalidateCache': lambda self: dropped.append(1)})()
    effects.lost(ValueError())
    assert dropped


def raising(*args):
    raise OSError('still there')


@pytest.mark.parametrize('late', [False, True])
def test_a_callback_that_fails_makes_everybody_look_again(cache, late):
    """C24: nobody knows whom it has told."""
    effects = Effects(cache)
    connection = Connection(with_db(effects))
    if late:
        effects.catch_up(NEW, [OID])
        effects.catch_up(p64(25), [p64(1)])
        effects.finish_late(NEW, raising)
    else:
        effects.finish(NEW, [(OID, b'new')], raising)
    assert effects.last_transaction() == (p64(25) if late else NEW)
    connection.begins()
    assert not connection.is_stale
    assert cache.load(OID) == (None if late else (b'new', NEW))


# ---- after CommitOutcomeUnknown -------------------------------------------------------------------

def test_forgetting_is_for_the_cache_and_for_open_connections(cache):
    """C11: who reads an object that may have been changed asks the server; others stay."""
    cache.store(p64(8), OLD, None, b'other')
    effects = Effects(cache)
    connection = Connection(with_db(effects))
    connection.has = None
    effects.forget([OID])
    assert cache.load(OID) is None
    assert cache.load(p64(8)) == (b'other', OLD)
    connection.begins()
    assert connection.has == connection.tid == OLD


def test_what_cannot_be_forgotten_alone_is_forgotten_with_the_rest(cache):
    effects = Effects(Failing(cache, 'invalidate'))
    connection = Connection(with_db(effects))
    connection.has = None
    effects.forget([OID])
    assert len(cache) == 0
    connection.begins()
    assert connection.has == effects.last_transaction() == OLD


def test_a_database_comes_before_or_after_a_transaction_and_never_amid_one():
    """C2: amid one it would not be told of it, but see `lastTransaction` move, with objects of before."""
    class Watched:
        """A lock that says when somebody asks for it."""

        def __init__(self):
            self._lock = threading.RLock()

        def acquire(self, blocking=True, timeout=-1):
            if threading.current_thread() is not threading.main_thread():
                asked.set()
            return self._lock.acquire(blocking, timeout)

        __enter__ = acquire

        def __exit__(self, *exc_info):
            self._lock.release()

    class Watching(Runtime):
        rlock = Watched

    class Cache(ClientCache):
        def setLastTid(self, tid):  # after the database would have been told
            newcomer.start()
            asked.wait()
            amid.append(effects.db)
            super().setLastTid(tid)

    def come():
        try:
            effects.tell(database)
        finally:
            asked.set()

    asked, amid, database = threading.Event(), [], object()
    newcomer = threading.Thread(target=come)
    cache = Cache()
    effects = Effects(cache, runtime=Watching())
    effects.invalidate(NEW, [OID])
    newcomer.join()
    cache.close()
    assert amid == [None]
    assert effects.db is database
