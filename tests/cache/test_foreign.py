"""K11: a file that somebody else cuts or writes, or a disk that fails, costs the cache at most."""
from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys

import pytest

from tests.cache.files import PATH, SIZE, filled
from tests.cache.memory import Disk
from tests.cache.truth import Truth, audit, p64
from tests.support import inside
from zeo_clone.cache import CacheLocked, ClientCache
from zeo_clone.cache import file as file_module
from zeo_clone.cache.format import HEAD_SIZE
from zeo_clone.cache.index import FLAGS

#: In a process of its own, which a signal may end: a cache in use, and what is done to its file amid that.
VICTIM = r'''
import json, logging, os, sys, threading

from tests.cache.truth import Truth, audit, p64
from zeo_clone.cache import CacheLocked, ClientCache

path, moment, size = sys.argv[1], sys.argv[3], 1 << 20
lines, truth, found = [], Truth(), []


class Lines(logging.Handler):
    def emit(self, record):
        lines.append((record.levelname, record.getMessage()))


logging.getLogger().addHandler(Lines(logging.WARNING))


def spoil():
    length = os.path.getsize(path)
    for step in sys.argv[2].split():
        if step == 'empty':
            os.truncate(path, 0)
        elif step == 'halve':
            os.truncate(path, length // 2 + 77)
        elif step == 'grow':
            os.truncate(path, length)
        else:
            with open(path, 'r+b') as file:
                file.write(b'other ' * (length // 6))


def commit(cache, numbers):
    changed = {p64(number): bytes(str(number), 'ascii') * 200 for number in numbers}
    tid = truth.commit(changed)
    cache.applyCommit(tid, list(changed.items()))
    cache.setLastTid(tid)


def look(cache):
    found.append(audit(cache, truth))
    for number in range(0, 1900, 7):
        assert cache.load(p64(number)) in (None, truth.current(p64(number))), number


cache = ClientCache(path, size)
for number in range(0, 1200, 40):
    commit(cache, range(number, number + 40))
commit(cache, range(500, 520))
if moment != 'filled':
    cache.close()
    if moment == 'reopening':
        spoil()
    cache = ClientCache(path, size)
if moment in ('filled', 'opened'):
    spoil()
elif moment == 'loading':
    for number in range(0, 1200, 3):
        cache.load(p64(number))
    spoil()
elif moment == 'thread':
    go, done = threading.Event(), threading.Event()

    def read():
        while not done.is_set():
            for number in range(1200):
                record = cache.load(p64(number))
                assert record in (None, truth.current(p64(number))), number
                go.set()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    go.wait()
    spoil()
look(cache)
if moment == 'thread':
    done.set()
    for thread in threads:
        thread.join()
commit(cache, range(100, 140))
cache.invalidate(p64(700), p64(truth.commit({p64(700): b'by others'}) and truth.last))
cache.setLastTid(p64(truth.last))
cache.sync()
look(cache)
commit(cache, range(1200, 1900))  # the hand comes round
look(cache)
if moment == 'closing':
    spoil()
cache.close()
cache = ClientCache(path, size)
for oid in truth.changed_since(cache.getLastTid()):
    cache.invalidate(oid, None)
look(cache)
commit(cache, range(40))
look(cache)
cache.close()
print(json.dumps([found, lines]))
'''


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize('how', ['empty', 'halve', 'empty grow', 'halve grow', 'scribble'])
@pytest.mark.parametrize('moment', ['filled', 'opened', 'loading', 'thread', 'reopening', 'closing'])
def test_a_file_that_somebody_spoils_while_it_is_used_costs_the_cache_at_most(tmp_path, how, moment):
    """K11: no signal, no wrong answer, a line in the log."""
    ended = subprocess.run([sys.executable, '-c', VICTIM, tmp_path / 'c.zec', how, moment], text=True,
                           capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, '')
    found, lines = json.loads(ended.stdout)
    assert found[-1] >= 40  # it goes on as a cache
    assert len([text for level, text in lines if level == 'WARNING']) <= 2  # of one file object each
    assert len([text for level, text in lines if level != 'WARNING']) <= 1, lines
    assert all('c.zec' in text for _, text in lines)
    # All may be in memory already; an empty file is a new one.
    assert lines or moment in ('filled', 'thread') or (how, moment) == ('empty', 'reopening')
    assert {level for level, _ in lines} <= {'WARNING', 'CRITICAL'}


class FailingDisk(Disk):
    """The call number ``at`` of ``name`` fails, and the others from it on, if it does so ``always``."""

    def __init__(self, files=None, name='', at=sys.maxsize, always=False):
        super().__init__(files)
        self.name, self.at, self.always, self.calls = name, at, always, 0

    def count(self, name):
        if name == self.name:
            self.calls += 1
            if self.calls == self.at or self.always and self.calls > self.at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pread(self, path, length, at):
        self.count('read')
        return super().pread(path, length, at)

    def pwrite(self, path, data, at):
        self.count('write')
        return super().pwrite(path, data, at)

    def fsync(self, path):
        self.count('sync')
        super().fsync(path)


def use(cache, truth):
    """A bit of everything, checked."""
    audit(cache, truth)
    for number in range(5):
        changed = {p64(number + turn): b'%d' % number * 300 for turn in (0, 7, 50)}
        tid = truth.commit(changed)
        cache.applyCommit(tid, [(oid, data if number % 2 else None) for oid, data in changed.items()])
        cache.setLastTid(tid)
        audit(cache, truth)
    cache.invalidateTransaction(truth.commit({p64(11): b'by others'}), [p64(11)])
    cache.setLastTid(p64(truth.last))
    cache.sync()
    for number in range(60, 90):  # the hand comes round
        data = b'%d' % number * 1000
        tid = truth.commit({p64(number): data})
        cache.setLastTid(tid)
        cache.store(p64(number), tid, None, data)
    audit(cache, truth)
    cache.close()


def begun():
    """A cache file that was closed, and the truth about it."""
    truth, disk = Truth(), Disk()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    for number in range(60):
        tid = truth.commit({p64(number): b'%d' % number * 200})
        cache.applyCommit(tid, [(p64(number), truth.current(p64(number))[0])])
        cache.setLastTid(tid)
    cache.invalidate(p64(5), truth.commit({p64(5): b'new'}))
    cache.setLastTid(p64(truth.last))
    cache.close()
    return disk.files, truth


def calls_of(name):
    """How many of them a life with `use` has."""
    files, truth = begun()
    disk = FailingDisk(files, name)
    use(ClientCache(PATH, SIZE, runtime=disk), truth)
    return disk.calls


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize('always', [False, True])
@pytest.mark.parametrize('name', ['read', 'write', 'sync'])
def test_a_disk_that_fails_costs_the_cache_at_most(name, always, caplog):
    """K11: at each call.  Only the making of a cache may raise, if no new file can be made, either."""
    calls = calls_of(name)
    assert calls >= 3
    for at in range(1, calls + 1):
        caplog.clear()
        files, truth = begun()
        disk = FailingDisk(files, name, at, always)
        try:
            cache = ClientCache(PATH, SIZE, runtime=disk)
        except OSError:
            assert always
            continue
        use(cache, truth)
        assert disk.calls >= at
        lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert always <= len(lines) <= 2  # the file, or a record, or both
        cache = ClientCache(PATH, SIZE, runtime=Disk(disk.files))  # what the next process finds
        for oid in truth.changed_since(cache.getLastTid()):
            cache.invalidate(oid, None)
        cache.setLastTid(p64(truth.last))
        audit(cache, truth)
        cache.close()


def test_what_is_read_behind_a_record_is_not_believed_if_something_was_written_meanwhile():
    """Its end, say."""
    disk = Disk()
    cache = filled(PATH, objects=3, runtime=disk)
    cache.close()
    first, second = (inside.book(cache).current.get(p64(number)) & ~FLAGS for number in (0, 1))
    read, seen = disk.pread, []

    def pread(path, length, at):
        raw = read(path, length, at)
        if at == first and not seen:
            seen.append(at)
            cache.invalidate(p64(1), p64(9))
        return raw
    disk.pread = pread
    cache = ClientCache(PATH, SIZE, runtime=disk)
    assert cache.load(p64(0)) == (b'0' * 100, p64(1))
    assert seen
    assert inside.book(cache).file.memory[second:second + HEAD_SIZE] != read(PATH, HEAD_SIZE, second)
    assert cache.load(p64(1)) is None
    assert cache.loadBefore(p64(1), p64(9)) == (b'1' * 100, p64(2), p64(9))
    assert inside.book(cache).file.head_at(second).end_tid == p64(9)
    cache.close()


def test_a_cache_that_is_larger_than_its_share_of_memory_reads_its_file(monkeypatch):
    """Memory is emptied when it is full, and everything is found again."""
    monkeypatch.setattr(file_module, 'MEMORY_SIZE', 20_000)
    disk = FailingDisk()
    disk.memory_size = lambda: None
    cache = ClientCache(PATH, 200_000, runtime=disk)
    for number in range(300):
        cache.store(p64(number), p64(1), None, b'%d' % number * 100)
        cache.setLastTid(p64(number + 1))
    cache.write_late()
    for _ in range(3):
        disk.name, before = 'read', disk.calls
        for number in range(300):
            assert cache.load(p64(number)) == (b'%d' % number * 100, p64(1))
        assert disk.calls > before
        assert disk.calls < before + 300
    cache.close()


def test_without_memory_a_cache_reads_its_file():
    disk = Disk()
    disk.memory = lambda size: None
    cache = filled(PATH, runtime=disk)
    assert [cache.load(p64(number)) for number in range(20)] == [
        (b'%d' % number * 100, p64(number + 1)) for number in range(20)]
    cache.close()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    assert len(list(cache.contents())) == 20
    assert cache.load(p64(3)) == (b'333' * 33 + b'3', p64(4))
    cache.close()


# ---- in this process: the file is bytes in memory ----------------------------------------------------

def scribble(data):
    data[:] = (b'other ' * len(data))[:len(data)]


def cut(data):
    del data[len(data) // 2:]


#: Of a cache in use: what writes into its file or looks at that.
NOTICING = {
    'the next tid': lambda cache: cache.setLastTid(p64(30)),
    'the database': lambda cache: setattr(cache, 'database', b'd' * 16),
    'a sync': lambda cache: cache.sync(),
    'clear': lambda cache: cache.clear(),
}


@pytest.mark.parametrize(('spoil', 'noticing'), [
    *[(scribble, noticing) for noticing in NOTICING], (cut, 'a sync')])
def test_a_file_that_somebody_spoils_is_made_anew_when_that_is_noticed(caplog, spoil, noticing):
    """K11: what is in it is not believed; the cache is empty, works, and the next process finds it whole."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    disk.now += 1000
    spoil(disk.files[PATH])
    NOTICING[noticing](cache)
    assert len(cache) == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert PATH in caplog.text
    cache.setLastTid(p64(31))
    cache.store(p64(1), p64(31), None, b'new')
    cache.close()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    assert (cache.getLastTid(), list(cache.contents())) == (p64(31), [(p64(1), p64(31), None)])
    assert cache.load(p64(1)) == (b'new', p64(31))
    cache.close()


def test_a_second_process_is_told_of_a_holder_who_has_not_said_who_he_is():
    """K2: the lock file cannot be read."""
    disk = Disk()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    with pytest.raises(CacheLocked, match=f'{PATH} is in use by process unknown on this host'):
        ClientCache(PATH, SIZE, runtime=disk)
    cache.close()
