"""The persistent cache in a client: warm starts, verification, locks, kills."""
from __future__ import annotations

import errno
import json
import logging
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, z64

from tests.cache.files import PATH, SIZE, kill, reopened
from tests.cache.memory import Disk, killed_image
from tests.cache.truth import Truth
from tests.cache.truth import audit as audit_all
from tests.client.fake_server import p64
from tests.support import inside
from zeo_clone.cache import CacheLocked, ClientCache
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.world import World
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import Runtime

OID = p64(7)
KILLS = 1000 if os.environ.get('ZEO_CLONE_HEAVY') else 60
OIDS = 40


def serve(fake, data, tid):
    fake.tid = tid
    fake.answers['loadBefore'] = lambda connection, oid, before: (data, tid, None)


def test_a_restarted_client_is_warm(fake, opened, tmp_path):
    """A named cache: what was read before the restart is read without the server."""
    path = str(tmp_path / 'main.zec')
    serve(fake, b'data', p64(3))
    first = opened(cache=path)
    first.loadBefore(OID, maxtid)
    first.close()
    storage = opened(cache=path)
    loads = fake.called('loadBefore')
    assert storage.loadBefore(OID, maxtid) == (b'data', p64(3), None)
    assert fake.called('loadBefore') == loads
    assert fake.called('getInvalidations') == 0


def test_a_restarted_client_hears_what_it_missed(fake, tmp_path):
    """Verification: changed objects are forgotten, the others stay warm."""
    path = str(tmp_path / 'main.zec')
    serve(fake, b'old', p64(3))
    storage = ClientStorage(fake.address, cache=path)
    for oid in (OID, p64(8)):
        storage.loadBefore(oid, maxtid)
    storage.close()
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(5), [OID])
    serve(fake, b'new', p64(5))
    storage = ClientStorage(fake.address, cache=path)
    loads = fake.called('loadBefore')
    assert storage.loadBefore(OID, maxtid) == (b'new', p64(5), None)
    assert storage.loadBefore(p64(8), maxtid) == (b'old', p64(3), None)
    assert fake.called('loadBefore') == loads + 1
    assert ('getInvalidations', (p64(3),)) in fake.calls
    storage.close()


def test_client_and_var_name_the_file(fake, opened, tmp_path):
    opened(client='front', var=str(tmp_path), storage='main').ping()
    assert (tmp_path / 'front-main.zec').exists()


def test_a_second_process_is_told_who_has_the_file(fake, opened, tmp_path):
    """K2: with cache= an error that names file and holder; with client= a temporary cache and a warning."""
    path = str(tmp_path / 'main.zec')
    opened(cache=path)
    with pytest.raises(CacheLocked, match=f'main.zec.*{os.getpid()}'):
        ClientStorage(fake.address, cache=path)


def test_a_second_process_may_use_a_temporary_cache(fake, opened, tmp_path, caplog):
    """K2 [#95]."""
    opened(client='front', var=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        second = opened(client='front', var=str(tmp_path))
    assert second.cache_stats()['path'] is None
    assert 'a temporary cache is used instead' in caplog.text


class FailingDisk(Runtime):
    """One on which nothing can be written at a given place, for which it is asked by descriptor."""

    def __init__(self, number):
        self.number = number

    def pwrite(self, fd, data, at):
        if os.readlink(f'/proc/self/fd/{fd}').endswith('.zec'):
            raise OSError(self.number, os.strerror(self.number))
        return os.pwrite(fd, data, at)


@pytest.mark.parametrize('number', [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_does_not_stop_a_client(fake, tmp_path, caplog, number):
    """K11: not at its start, either."""
    serve(fake, b'data', p64(3))
    world = World(FailingDisk(number))
    storage = ClientStorage(fake.address, cache=str(tmp_path / 'main.zec'), world=world)
    assert storage.loadBefore(OID, maxtid) == (b'data', p64(3), None)
    assert storage.cache_stats()['path'] is None
    assert 'main.zec cannot be used' in caplog.text
    storage.close()
    world.close()


def test_a_cache_newer_than_the_server_names_its_file(fake, tmp_path):
    """K3: a restored backup; the error names the file and says what to do, an option drops the cache."""
    path = str(tmp_path / 'main.zec')
    serve(fake, b'data', p64(9))
    storage = ClientStorage(fake.address, cache=path)
    storage.loadBefore(OID, maxtid)
    storage.close()
    serve(fake, b'restored', p64(5))
    with pytest.raises(ClientDisconnected, match=f'remove the cache file {path}'):
        ClientStorage(fake.address, cache=path, wait_timeout=2)
    storage = ClientStorage(fake.address, cache=path, drop_newer_cache=True)
    assert storage.lastTransaction() == p64(5)
    assert storage.loadBefore(OID, maxtid) == (b'restored', p64(5), None)
    storage.close()


@pytest.mark.parametrize('damage', [b'', b'ZEC3' + bytes(2000), b'not a cache', bytes(300_000)])
def test_a_damaged_file_does_not_stop_a_client(fake, tmp_path, damage):
    """K1: it is moved to .bad, and the client starts with an empty one."""
    path = tmp_path / 'main.zec'
    path.write_bytes(damage)
    serve(fake, b'data', p64(3))
    storage = ClientStorage(fake.address, cache=str(path))
    assert storage.loadBefore(OID, maxtid) == (b'data', p64(3), None)
    storage.close()
    if damage:
        assert (tmp_path / 'main.zec.bad').read_bytes() == damage


class Counting:
    """A cache that counts how often each of its methods is called."""

    def __init__(self, cache):
        self._cache = cache
        self.calls = Counter()

    def __getattr__(self, name):
        method = getattr(self._cache, name)

        def counted(*args):
            self.calls[name] += 1
            return method(*args)

        return counted

    def __len__(self):
        return len(self._cache)


@pytest.mark.parametrize('objects', [10, 20_000])
def test_reconnecting_costs_the_same_for_any_cache(fake, opened, objects):
    """K9: only what has changed is touched, however much is cached."""
    counting = Counting(ClientCache(None, 40_000_000))
    counting.setLastTid(p64(1))
    for number in range(objects):
        counting.store(p64(number), p64(1), None, b'data')
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(5), [p64(3), p64(4)])
    fake.tid = p64(5)
    counting.calls.clear()
    storage = opened(cache=counting)
    assert storage.lastTransaction() == p64(5)
    assert counting.calls['invalidate'] == 2
    assert set(counting.calls) <= {'invalidate', 'getLastTid', 'setLastTid'}
    assert sum(counting.calls.values()) < 20
    assert len(counting) == objects - 2


class Database:
    """Stands for ZODB's: what `look` finds when it is told of a transaction.  Of `refused` it raises."""

    def __init__(self, storage, look, refused=None):
        self.look, self.refused = look, refused
        self.seen = []
        inside.engine(storage).effects.tell(self)

    def invalidate(self, tid, oids):
        self.seen.append(self.look())
        if tid == self.refused:
            raise ValueError('the database does not listen')

    def invalidateCache(self):
        pass


@pytest.fixture
def told(fake, opened):
    """A client with five objects in a cache on a disk in memory, and four transactions that change them."""
    disk, truth = Disk(), Truth()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    tid = truth.commit({p64(number): b'old %d' % number for number in range(5)})
    for number in range(5):
        cache.store(p64(number), tid, None, b'old %d' % number)
    cache.setLastTid(tid)
    fake.tid = tid
    storage = opened(cache=cache)
    for number in range(4):
        truth.commit({p64(number): b'new', p64(number + 1): b'new'})
    yield storage, cache, disk, truth
    kill(cache)


def test_notices_in_one_piece_move_the_tid_in_the_file_once(told):
    """C10, C2: after all of them, and `lastTransaction` with each.  Whoever is killed between two writes, or
    amid one, finds no record that is current and should not be."""
    storage, cache, disk, truth = told
    base, began = bytes(disk.files[PATH]), len(disk.log)
    database = Database(storage, lambda: (storage.lastTransaction(), len(disk.log) - began))
    inside.link(storage).handle_changes(truth.transactions[1:])
    tids, writes = zip(*database.seen, strict=True)
    assert tids == (p64(1), p64(2), p64(3), p64(4))
    assert storage.lastTransaction() == cache.getLastTid() == p64(5)
    log = disk.log[began:]
    headers = [number for number, (_, at, _) in enumerate(log) if at < 1024]
    assert headers == [len(log) - 1] == [writes[-1]]
    assert len(log) == 6  # of five objects the ends
    for count in range(len(log) + 1):
        for torn in (None, 1, 7, 30, 100):
            found = ClientCache(PATH, SIZE, runtime=Disk({PATH: killed_image(base, log, count, torn)}))
            assert found.getLastTid() == p64(5 if count == len(log) else 1)
            assert audit_all(found, truth) >= 4
            found.close()


def test_a_piece_of_which_one_notice_fails_is_heard_of_again(told):
    """C10, C17: the file says no later tid than that of the last one that took effect."""
    storage, cache, disk, truth = told
    Database(storage, storage.lastTransaction, refused=p64(4))
    with pytest.raises(ValueError, match='does not listen'):
        inside.link(storage).handle_changes(truth.transactions[1:])
    assert storage.lastTransaction() == p64(3)
    found = reopened(disk)
    assert found.getLastTid() <= p64(3)
    assert audit_all(found, truth)
    found.close()


def commit(storage, rng, serials):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    oids = rng.sample(range(OIDS), 3)
    for number in oids:
        data = b'%d ' % rng.randrange(10 ** 9) * rng.randrange(1, 300)
        storage.store(p64(number), serials.get(number, z64), data, '', meta)
    storage.tpc_vote(meta)
    tid = storage.tpc_finish(meta)
    serials.update(dict.fromkeys(oids, tid))


def audit(path, storage):
    """Catch the cache up as a client does; then each revision in it must be the server's."""
    cache = ClientCache(path, 200_000)
    try:
        changed = inside.loader(storage).ask('getInvalidations', cache.getLastTid())
        assert changed is not None or not len(cache)
        for oid in changed[1] if changed else ():
            cache.invalidate(oid, None)
        for oid, start, end in list(cache.contents()):
            before = maxtid if end is None else end
            found = cache.loadBefore(oid, before)
            if found is not None:
                assert found == inside.loader(storage).ask('loadBefore', oid, before), (oid, start, end)
        return len(cache)
    finally:
        cache.close()


@pytest.mark.long
@pytest.mark.once
def test_kills_at_any_moment_leave_true_caches(server_process, client, tmp_path):
    """C10: clients are killed with -9 while another one commits; no cache ever shows an untrue record."""
    path = str(tmp_path / 'victim.zec')
    rng, serials = random.Random(4), {}
    writer = client(server_process.address, cache_size=0)
    commit_all = TransactionMetaData()
    writer.tpc_begin(commit_all)
    for number in range(OIDS):
        writer.store(p64(number), z64, b'first', '', commit_all)
    writer.tpc_vote(commit_all)
    serials.update(dict.fromkeys(range(OIDS), writer.tpc_finish(commit_all)))
    victim = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name('cache_victim.py')),
         json.dumps(server_process.address), path, str(OIDS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])})

    def tell(command, answer):
        victim.stdin.write(command + '\n')
        victim.stdin.flush()
        assert victim.stdout.readline() == answer + '\n'

    kept = 0
    try:
        for _ in range(KILLS):
            tell('start', 'reading')
            for _ in range(rng.randrange(1, 12)):
                commit(writer, rng, serials)
            tell('kill', 'killed')
            commit(writer, rng, serials)
            kept += audit(path, writer)
    finally:
        victim.stdin.close()
        victim.wait()
        victim.stdout.close()
    assert kept > KILLS  # else nothing was proven
