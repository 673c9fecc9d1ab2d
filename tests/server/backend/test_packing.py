"""A pack reads records as clients have stored them: keeps what they refer to, survives what they are."""
from __future__ import annotations

import errno
import gc
import logging
import os
from contextlib import closing

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError, ReadOnlyError, StorageError
from ZODB.utils import maxtid, p64, z64

from tests.server.backend.test_references import CLASS, NESTED_KEY, SHARED_KEY
from tests.server.desk import Desk
from tests.server.test_blobs import commit_blob, upload
from zeo_clone.server.backend.references import references

KEPT, LOST = p64(1), p64(2)
LATER = 4e9
EMPTY = CLASS + b'\x80\x03N.'


def referring(oid, state=b'N.'):
    """The record of an object that refers to `oid`, with `state` besides."""
    return CLASS + b'\x80\x03C\x08' + oid + b'Q0' + state


@pytest.fixture
def storage(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    yield storage
    storage.close()


@pytest.fixture
def client(storage):
    return Desk({'1': storage}).connect()


def is_there(client, oid):
    try:
        return client.call('loadBefore', oid, maxtid) is not None
    except POSKeyError:
        return False


@pytest.mark.parametrize('state', [
    NESTED_KEY, SHARED_KEY, b'Nr\x00\x5a\x62\x02.', b'Np40000000\n.', b'cos\nsystem\nX\1\0\0\0x\x85R.',
    b'\x82\1.',
])
def test_a_pack_goes_on_whatever_a_record_holds(client, state):
    """S10: and keeps what it refers to."""
    client.commit(z64, data=referring(KEPT, state))
    client.commit(KEPT, LOST, data=EMPTY)
    client.call('pack', LATER)
    assert is_there(client, KEPT)
    assert not is_there(client, LOST)


# FileStorage leaves the files of a pack that fails to Python, which closes them and warns.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('bad', [referring(KEPT)[:-1], b'data', CLASS + b'\x80\x03NQ.', b'\x80\x03'])
def test_a_pack_that_meets_an_unreadable_record_removes_nothing_and_names_the_object(client, bad, caplog):
    """S10: the log says so too, for who does not wait for the end."""
    caplog.set_level('INFO')
    client.commit(z64, data=EMPTY)
    client.commit(LOST, data=EMPTY)
    tid = client.commit(KEPT, data=bad)
    root = client.commit(z64, data=referring(KEPT), serial=client.call('loadBefore', z64, maxtid)[1])
    with pytest.raises(StorageError, match=f'nothing was packed: object 0x{KEPT.hex()} of transaction '
                                           f'0x{tid.hex()} cannot be read.*pack-gc false'):
        client.call('pack', LATER)
    assert "the pack of storage '1' has failed: StorageError: nothing was packed:" in caplog.text
    gc.collect()  # ... now
    assert is_there(client, LOST)
    client.commit(KEPT, data=EMPTY, serial=tid)
    client.call('pack', LATER)
    assert not is_there(client, LOST)
    assert is_there(client, KEPT)
    assert client.call('loadBefore', z64, maxtid)[1] == root


def test_a_storage_that_cannot_be_searched_has_the_beginning_of_the_record_named():
    """S10."""
    class NoIterator(MappingStorage):
        iterator = property()

    client = Desk({'1': NoIterator()}).connect()
    client.commit(z64, data=b'\x80\x03nonsense')
    begins = r"a record that begins with '\\\\x80\\x03nonsense' cannot be read"
    with pytest.raises(StorageError, match=begins):
        client.call('pack', LATER)


@pytest.mark.parametrize('first', [NESTED_KEY, SHARED_KEY, b'Nr\x00\x5a\x62\x02.'])
def test_a_pack_does_not_take_a_record_for_that_of_a_blob_in_order_to_find_out(client, first):
    """S10: records that are removed are looked at as well, if there are blobs."""
    client.commit(z64, data=EMPTY)
    client.commit(LOST, data=b'\x80\x03X\x09\0\0\0ZODB.blob0' + first + b'N.')
    client.call('pack', LATER)
    assert not is_there(client, LOST)


def test_a_pack_that_an_undo_overtakes_says_so(tmp_path):
    """L12: what the undo goes back to is not in the new file."""
    def packer(storage, references, stop, gc):
        def undo_and_find(record):
            if undoing:
                meta = TransactionMetaData()
                storage.tpc_begin(meta)
                storage.undo(undoing.pop(), meta)
                storage.tpc_vote(meta)
                storage.tpc_finish(meta)
            return references(record)

        return FileStorage.packer(storage, undo_and_find, stop, gc)

    with closing(FileStorage(str(tmp_path / 'Data.fs'), packer=packer)) as storage:
        client = Desk({'1': storage}).connect()
        client.commit(z64, data=referring(KEPT))
        first = client.commit(KEPT, data=EMPTY)
        client.commit(KEPT, data=referring(z64), serial=first)
        undoing = [storage.undoLog(0, 1)[0]['id']]
        with pytest.raises(StorageError, match='nothing was packed: .* undone.*pack again'):
            client.call('pack', LATER)
        assert client.call('loadBefore', KEPT, maxtid)[0] == EMPTY
        client.call('pack', LATER)
        assert client.call('loadBefore', KEPT, first) is None


# ---- a pack that was cut short ----------------------------------------------------------------------

class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(params=[True, False], ids=['keep', 'remove'])
def cut_short(request, tmp_path, monkeypatch):
    """What is left of a pack that had put its file into place, and had removed no blob yet: the arguments of
    the storage, the blobs that it wanted to keep and those that it did not."""
    arguments = {'file_name': str(tmp_path / 'Data.fs'), 'blob_dir': str(tmp_path / 'blobs'),
                 'pack_keep_old': request.param}
    with closing(FileStorage(**arguments)) as storage:
        client = Desk({'1': storage}).connect()
        client.commit(z64, data=referring(KEPT))
        first = commit_blob(client, b'first', oid=KEPT)
        kept = commit_blob(client, b'second', oid=KEPT, serial=first)
        lost = commit_blob(client, b'lost', oid=LOST)

        def die():
            raise Killed

        monkeypatch.setattr(storage, '_remove_blob_files_tagged_for_removal_during_pack', die)
        with pytest.raises(Killed):
            storage.pack(LATER, references)
    assert blobs_below(tmp_path / 'blobs') == sorted([first, kept, lost])
    return arguments, [kept], sorted([first, lost])


def blobs_below(directory):
    """The tids in the names of all blobs."""
    return sorted(bytes.fromhex(path.stem[2:]) for path in directory.rglob('*.blob'))


def test_the_next_start_removes_the_blobs_of_a_pack_that_was_killed(cut_short, tmp_path):
    """B12, D4: those that the storage does not have any more, and not the others."""
    arguments, kept, lost = cut_short
    with open(tmp_path / 'blobs' / '.removed', 'ab') as file:
        file.write((KEPT + kept[0]).hex().encode() + b'\n')
    with closing(FileStorage(**arguments)) as storage:
        client = Desk({'1': storage}).connect()
        assert blobs_below(tmp_path / 'blobs') == kept
        assert not (tmp_path / 'blobs' / '.removed').exists()
        if arguments['pack_keep_old']:
            assert blobs_below(tmp_path / 'blobs.old') == lost
            assert (tmp_path / 'blobs.old' / '.layout').read_text() == 'bushy'
        else:
            assert not (tmp_path / 'blobs.old').exists()
        commit_blob(client, b'third', oid=KEPT, serial=kept[0])
        storage.pack(LATER, references)
        assert len(blobs_below(tmp_path / 'blobs')) == 1


class Full(FileStorage):
    """The disk is full when a pack has put its file into place."""

    full = True
    ignores_packs = False

    def pack(self, *args):
        if not self.ignores_packs:
            super().pack(*args)

    def _remove_blob_files_tagged_for_removal_during_pack(self):
        if self.full:
            raise OSError(errno.ENOSPC, 'No space left on device', 'blobs.old')
        super()._remove_blob_files_tagged_for_removal_during_pack()


class Halfway(FileStorage):
    """A pack takes its file away, and meets a full disk before there is another one."""

    def pack(self, *_):
        os.rename(self._file_name, f'{self._file_name}.old')
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_pack_that_has_put_no_file_into_place_has_not_packed(tmp_path):
    """L7"""
    with closing(Halfway(str(tmp_path / 'Data.fs'))) as storage:
        client = Desk({'1': storage}).connect()
        with pytest.raises(OSError, match='the server cannot pack.*No space left'):
            client.call('pack', LATER)
        os.rename(tmp_path / 'Data.fs.old', tmp_path / 'Data.fs')


class Unindexed(FileStorage):
    """The disk is full when a pack saves its index."""

    def _save_index(self):
        if self._saved:
            raise OSError(errno.ENOSPC, 'No space left on device')
        super()._save_index()

    def close(self):
        self._saved = 0
        super().close()


def test_a_pack_that_could_not_save_its_index_has_packed(tmp_path, caplog):
    """L7: and there are no blobs of which it could speak."""
    with closing(Unindexed(str(tmp_path / 'Data.fs'))) as storage:
        client = Desk({'1': storage}).connect()
        client.commit(z64, LOST, data=EMPTY)
        with caplog.at_level(logging.INFO), pytest.raises(OSError, match='is packed, but.*No space') as told:
            client.call('pack', LATER)
        assert not is_there(client, LOST)
    assert 'blob' not in str(told.value)
    assert 'not packed' not in caplog.text


@pytest.mark.parametrize('keep_old', [True, False])
def test_the_next_pack_removes_the_blobs_of_one_that_met_a_full_disk(tmp_path, keep_old):
    """B12, L7: the storage is packed by then, which is said; and what is being committed stays."""
    with closing(Full(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'),
                      pack_keep_old=keep_old)) as storage:
        desk = Desk({'1': storage})
        client = desk.connect()
        client.commit(z64, data=referring(KEPT))
        kept = commit_blob(client, b'kept', oid=KEPT)
        lost = commit_blob(client, b'lost', oid=LOST)
        with pytest.raises(OSError, match="storage '1' is packed, but .* the next pack.*No space left"):
            client.call('pack', LATER)
        assert not is_there(client, LOST)
        assert blobs_below(tmp_path / 'blobs') == [kept, lost]
        client.begin()
        upload(client, b'coming', oid=LOST)
        client.call('vote', 7)
        storage.ignores_packs = True  # which would wait for the end of the commit
        desk.connect().call('pack', LATER)
        coming = client.call('tpc_finish', 7)
        assert blobs_below(tmp_path / 'blobs') == [kept, coming]
        storage.full = storage.ignores_packs = False
        client.call('pack', LATER)
        assert blobs_below(tmp_path / 'blobs') == [kept]


def test_blobs_of_a_pack_that_did_not_get_there_stay(cut_short, tmp_path):
    """B12: its file is not the database's, whatever the storage has."""
    arguments, kept, lost = cut_short
    (tmp_path / 'Data.fs.pack').touch()
    with closing(FileStorage(**arguments)) as storage:
        Desk({'1': storage})
    assert blobs_below(tmp_path / 'blobs') == sorted(kept + lost)


def test_a_list_of_removed_blobs_that_cannot_be_read_stops_no_start(cut_short, tmp_path, caplog):
    """B12, L9."""
    arguments, kept, lost = cut_short
    (tmp_path / 'blobs' / '.removed').write_bytes(b'nonsense\n')
    with closing(FileStorage(**arguments)) as storage:
        assert is_there(Desk({'1': storage}).connect(), KEPT)
    assert blobs_below(tmp_path / 'blobs') == sorted(kept + lost)
    assert 'cannot be cleared' in caplog.text


def test_a_pack_of_a_reader_leaves_the_blobs_to_the_server_that_writes(cut_short, tmp_path):
    """S7: which may be about to put them away."""
    arguments, kept, lost = cut_short
    with closing(FileStorage(**arguments, read_only=True)) as storage:
        client = Desk({'1': storage}).connect(read_only=True)
        with pytest.raises(ReadOnlyError):
            client.call('pack', LATER)
    assert blobs_below(tmp_path / 'blobs') == sorted(kept + lost)
    assert (tmp_path / 'blobs' / '.removed').exists()


def test_a_full_disk_is_said_to_be_the_servers(client, storage, monkeypatch):
    """L7: clients have disks, too."""
    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(storage, 'pack', full)
    with pytest.raises(OSError, match='the server cannot pack: No space left on device') as caught:
        client.call('pack', LATER)
    assert caught.value.errno == errno.ENOSPC
