"""A pack by a process of its own: the same file as ZODB's packer makes, or the old one."""
from __future__ import annotations

import errno
import gc
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest
import transaction
import ZODB
from BTrees.OOBTree import OOBTree
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.fspack import PackError
from ZODB.POSException import StorageError, UndoError
from ZODB.utils import p64, z64

from zeo_clone.configuration import packer
from zeo_clone.configuration.filestorage import open_file
from zeo_clone.server.backend.groupcommit import GroupCommitStorage
from zeo_clone.server.backend.references import UnreadableRecord, references

#: A record that refers to nothing.
RECORD = b'cpersistent.mapping\nPersistentMapping\n.}.'
#: Waits with its helper half-way, and goes without a word.
GONE = """
import os, sys
from ZODB.FileStorage import FileStorage
from zeo_clone.configuration import packer
helper = packer.Helper(FileStorage(sys.argv[1]), bytes.fromhex(sys.argv[2]), True)
print(helper._hear() > 0, flush=True)
os._exit(0)
"""


@pytest.fixture(autouse=True)
def _however_small(monkeypatch):
    monkeypatch.setattr(packer, 'SMALL', 0)


@pytest.fixture(autouse=True)
def _no_collection():
    """BTrees' C code, which resolves some undone changes, goes on for a while with the error of a comparison
    set; a callback of the garbage collector, hypothesis has one, would meet it."""
    gc.disable()
    yield
    gc.enable()


def fill(directory, seed):
    """A database with garbage, undone transactions and blobs; moments between its transactions."""
    chance, moments = random.Random(seed), []
    with closing(ZODB.DB(FileStorage(f'{directory}/Data.fs', blob_dir=f'{directory}/blobs'))) as database:
        connection = database.open()
        tree = connection.root()['tree'] = OOBTree()
        transaction.commit()
        for step in range(50):
            key, what = chance.randrange(15), chance.random()
            if what < 0.5:
                tree[key] = OOBTree(dict.fromkeys(range(chance.randrange(40)), 'x' * chance.randrange(99)))
            elif what < 0.65:
                tree.pop(key, None)
            elif what < 0.8 or step < 10:
                tree[key] = Blob(bytes([key]) * chance.randrange(50))
            else:
                database.undo(chance.choice(database.undoLog(0, 5))['id'])
            try:
                transaction.commit()
            except UndoError:
                transaction.abort()
            moments.append(time.time())
        connection.close()
    return moments


def content(directory):
    """Names and bytes of all files that matter."""
    return {os.path.relpath(f'{path}/{name}', directory): open_bytes(f'{path}/{name}')
            for path, _, names in os.walk(directory) for name in names
            if name.endswith(('.fs', '.blob', '.pack', '.packindex', '.removed'))}


def open_bytes(path):
    with open(path, 'rb') as file:
        return file.read()


@pytest.mark.parametrize('gc', [True, False])
@pytest.mark.parametrize('seed', range(3))
def test_the_file_is_the_one_that_zodb_makes(tmp_path, seed, gc):
    """L12: byte for byte, with its index and its blobs."""
    (tmp_path / 'zodb').mkdir()
    moments = fill(tmp_path / 'zodb', seed)
    shutil.copytree(tmp_path / 'zodb', tmp_path / 'ours')
    found = []
    for name, keywords in ('zodb', {}), ('ours', {'packer': packer.pack}):
        directory = tmp_path / name
        with closing(FileStorage(str(directory / 'Data.fs'), blob_dir=str(directory / 'blobs'), pack_gc=gc,
                                 **keywords)) as storage:
            storage.pack(random.Random(seed).choice(moments), references)
            found.append((dict(storage._index.items()), storage.getSize(), storage.lastTransaction()))
        found[-1] += (content(directory),)
    assert found[0] == found[1]


@pytest.fixture
def storage(tmp_path):
    fill(tmp_path, 1)
    with closing(open_file(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))) as storage:
        yield storage


def write(storage, oid, data=RECORD, serial=z64):
    """Commit a transaction that writes one object."""
    metadata = TransactionMetaData()
    storage.tpc_begin(metadata)
    storage.store(oid, serial, data, '', metadata)
    storage.tpc_vote(metadata)
    storage.tpc_finish(metadata)


def reopened(path):
    """Oids and records of all that is in the file, each transaction once and in order."""
    with closing(FileStorage(path, read_only=True)) as storage:
        tids = [transaction_.tid for transaction_ in storage.iterator()]
        assert tids == sorted(set(tids))
        return {record.oid: record.data for transaction_ in storage.iterator() for record in transaction_}


def test_what_is_committed_meanwhile_is_kept(storage, monkeypatch, tmp_path):
    """C11, L12: in each part of the pack, also if so much comes that the other process copies on."""
    hear, copy_one = packer.Helper._hear, packer.Rest.copyOne
    written, copied = [], []

    def write_and_hear(helper):
        reached = hear(helper)
        if len(written) < 3:
            written.append(storage.new_oid())
            write(storage, written[-1])
        return reached

    def write_and_copy(rest, reached):
        copied.append(reached)
        return copy_one(rest, reached)

    monkeypatch.setattr(packer, 'REST', 1)
    monkeypatch.setattr(packer, 'ROUNDS', 2)
    monkeypatch.setattr(packer.Helper, '_hear', write_and_hear)
    monkeypatch.setattr(packer.Rest, 'copyOne', write_and_copy)
    before = storage.getSize()
    storage.pack(time.time(), references)
    assert storage.getSize() < before
    assert len(written) == 3 and copied  # the last one was written when the other process had ended
    written.append(storage.new_oid())
    write(storage, written[-1])
    storage.close()
    assert {*written, z64} <= {oid for oid, data in reopened(str(tmp_path / 'Data.fs')).items()
                               if data == RECORD or oid == z64}


def check_that_nothing_was_packed(storage, tmp_path):
    assert not {'Data.fs.pack', 'Data.fs.packindex'} & set(os.listdir(tmp_path))
    oid = storage.new_oid()
    write(storage, oid)  # the commit lock is free
    size = storage.getSize()
    storage.pack(time.time() - 60, references)
    storage.pack(time.time() - 1e-3, references, gc=False)
    assert storage.getSize() < size
    storage.close()
    assert reopened(str(tmp_path / 'Data.fs'))[oid] == RECORD


def test_the_other_process_is_killed(storage, monkeypatch, tmp_path, capfd):
    """L12, C21"""
    before = open_bytes(tmp_path / 'Data.fs')
    hear = packer.Helper._hear

    def kill_and_hear(helper):
        helper._process.send_signal(signal.SIGKILL)
        helper._process.wait()
        return hear(helper)

    with monkeypatch.context() as patch:
        patch.setattr(packer.Helper, '_hear', kill_and_hear)
        with pytest.raises(StorageError, match='nothing was packed: .* exit code -9') as caught:
            storage.pack(time.time(), references)
    assert type(caught.value) is StorageError, 'every client knows it'
    assert open_bytes(tmp_path / 'Data.fs') == before
    check_that_nothing_was_packed(storage, tmp_path)


def test_a_failure_while_the_rest_is_copied(storage, monkeypatch, tmp_path):
    """L12, C21"""

    hear = packer.Helper._hear

    def write_and_hear(helper):
        write(storage, storage.new_oid())  # so that there is something to copy
        return hear(helper)

    def fails(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(packer.Helper, '_hear', write_and_hear)
        patch.setattr(packer.Rest, 'copyOne', fails)
        with pytest.raises(OSError, match='No space left'):
            storage.pack(time.time(), references)
    check_that_nothing_was_packed(storage, tmp_path)


def test_the_other_process_ends_with_the_server(storage, tmp_path):
    """N12"""
    storage.close()
    later = p64(0x7f << 56)
    done = subprocess.run([sys.executable, '-c', GONE, str(tmp_path / 'Data.fs'), later.hex()],
                          capture_output=True, check=True, text=True)
    # And it returned: the other process, which has the same stderr, has closed it.
    assert (done.stdout, done.stderr) == ('True\n', '')


@pytest.mark.parametrize('later', [False, True], ids=['of what is packed', 'of what came later'])
def test_an_error_of_the_disk_is_that_of_the_server(storage, tmp_path, later):
    """L9: the other process may not write that much, as on a full disk."""
    now, limit = time.time(), storage.getSize() if later else 10
    write(storage, storage.new_oid(), RECORD + b' ' * limit)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError) as raised:
            storage.pack(now, references)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert not {'Data.fs.pack', 'Data.fs.packindex'} & set(os.listdir(tmp_path))


def test_a_process_that_outlives_its_server_does_not_touch_the_next_pack(storage, tmp_path):
    """D2: it hears late that its server is gone, and goes on writing."""
    with packer.Helper(storage, p64(0x7f << 56), True) as late:
        assert late._hear() > 0
        its = os.stat(tmp_path / 'Data.fs.pack').st_ino
        storage.pack(time.time(), references)
        assert os.stat(tmp_path / 'Data.fs').st_ino != its
        late._say(None)
        late._hear()  # it has written its index
    assert not {'Data.fs.pack', 'Data.fs.packindex'} & set(os.listdir(tmp_path))


def test_a_record_that_cannot_be_read_ends_the_pack(storage, tmp_path):
    """S10"""
    write(storage, z64, b'no pickle', storage.getTid(z64))
    before = open_bytes(tmp_path / 'Data.fs')
    with pytest.raises(UnreadableRecord) as raised:
        storage.pack(time.time(), references)
    assert raised.value.record == b'no pickle'
    assert open_bytes(tmp_path / 'Data.fs') == before


class Undoing(GroupCommitStorage):
    """Undoes a transaction when it is asked for its size by who has copied a part."""

    asked = 0

    def getSize(self):
        self.asked += 1
        if self.asked == 3:  # before that, `pack` and the other process, about to begin
            metadata = TransactionMetaData()
            self.tpc_begin(metadata)
            self.undo(self.undoing, metadata)
            self.tpc_vote(metadata)
            self.tpc_finish(metadata)
        return super().getSize()


def test_an_undo_of_what_is_packed_ends_the_pack(monkeypatch, tmp_path):
    """L12: it is committed while the other process copies, and goes back to what is not copied."""
    monkeypatch.setattr(packer, 'REST', 1)
    with closing(Undoing(str(tmp_path / 'Data.fs'), packer=packer.pack)) as storage:
        write(storage, z64)
        write(storage, z64, RECORD[:-1] + b' .', storage.getTid(z64))
        storage.undoing = storage.undoLog(0, 1)[0]['id']
        with pytest.raises(PackError):
            storage.pack(time.time(), references, gc=False)
        check_that_nothing_was_packed(storage, tmp_path)


def test_a_second_pack_to_the_same_time_does_nothing(storage, tmp_path):
    now = time.time()
    storage.pack(now, references)
    before = open_bytes(tmp_path / 'Data.fs')
    storage.pack(now - 1, references)
    assert open_bytes(tmp_path / 'Data.fs') == before


@pytest.mark.parametrize('why', ['small', 'reads records its own way', 'no process', 'no interpreter'])
def test_where_no_other_process_can_do_it_the_server_does(storage, monkeypatch, why, caplog):
    def fails(*_, **__):
        raise OSError(11, 'Resource temporarily unavailable')

    monkeypatch.setattr(packer.subprocess, 'Popen', fails)
    if why == 'small':
        monkeypatch.setattr(packer, 'SMALL', 1 << 30)
    elif why == 'no interpreter':
        monkeypatch.setattr(sys, 'executable', '/usr/bin/uwsgi')
    before = storage.getSize()
    own = partial(references) if why == 'reads records its own way' else references
    storage.pack(time.time(), own)
    assert storage.getSize() < before
    assert ('Resource temporarily unavailable' in caplog.text) == (why == 'no process')
