"""Blobs: up with a transaction, down in chunks, and nothing left behind."""
from __future__ import annotations

import errno
import os
import threading
import time

import pytest
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, POSKeyError, ReadOnlyError, StorageError
from ZODB.tests.hexstorage import HexStorage
from ZODB.utils import p64, z64

from tests.server.desk import Desk
from zeo_clone.loop.shareddir import LEFT_OVER_AGE_S
from zeo_clone.server.clients import downloads
from zeo_clone.server.commits import operations
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import TooBusy

OID = p64(1)
BLOB = b'cZODB.blob\nBlob\n.N.'


class Storage(FileStorage):
    """Calls `before_copy` when an undo has made the file to which it will copy a blob."""

    before_copy = int

    def openCommittedBlobFile(self, *revision):
        self.before_copy()
        return super().openCommittedBlobFile(*revision)


@pytest.fixture
def storage(tmp_path):
    storage = Storage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    yield storage
    storage.close()


def temporary_files(storage):
    return os.listdir(storage.temporaryDirectory())


def committed_files(storage):
    return sorted(os.path.join(where, name) for where, _, names in os.walk(storage.fshelper.base_dir)
                  for name in names if name.endswith('.blob'))


def open_files():
    return len(os.listdir('/proc/self/fd'))


def upload(client, *chunks, oid=OID, serial=z64):
    client.oneway('storeBlobStart')
    for chunk in chunks:
        client.oneway('storeBlobChunk', chunk)
    client.oneway('storeBlobEnd', oid, serial, BLOB, 7)


def commit_blob(client, *chunks, oid=OID, serial=z64):
    client.begin()
    upload(client, *chunks, oid=oid, serial=serial)
    client.call('vote', 7)
    return client.call('tpc_finish', 7)


def download(client, tid, oid=OID):
    """The blob's chunks, as they came."""
    client.take_notices()
    assert client.call('sendBlob', oid, tid) is None
    return chunks_of(client, tid, oid)


def chunks_of(client, tid, oid=OID):
    names, args = zip(*client.take_notices(), strict=True)
    assert (names[0], names[-1]) == ('receiveBlobStart', 'receiveBlobStop')
    assert set(names[1:-1]) <= {'receiveBlobChunk'}
    assert {arguments[:2] for arguments in args} == {(oid, tid)}
    return [arguments[2] for arguments in args[1:-1]]


# ---- up -------------------------------------------------------------------------------------------

def test_a_blob_goes_up_in_chunks_and_is_stored_whole(client, storage):
    tid = commit_blob(client, b'one ', b'two ', b'three')
    with open(storage.loadBlob(OID, tid), 'rb') as file:
        assert file.read() == b'one two three'
    assert temporary_files(storage) == []


def test_an_empty_blob_is_one_too(client):
    assert download(client, commit_blob(client)) == []


def test_several_blobs_in_a_transaction_keep_apart(client):
    """B1."""
    client.begin()
    for number in range(5):
        upload(client, b'blob ', b'%d' % number, oid=p64(number))
    client.call('vote', 7)
    tid = client.call('tpc_finish', 7)
    for number in range(5):
        assert download(client, tid, p64(number)) == [b'blob %d' % number]


def test_an_upload_does_not_hold_the_commit_lock(desk, client):
    """B9."""
    client.begin()
    client.oneway('storeBlobStart')
    client.oneway('storeBlobChunk', b'slow')
    assert commit_blob(desk.connect(), b'fast', oid=p64(2))


@pytest.mark.parametrize('end', [
    lambda client: client.call('tpc_abort', 7), lambda client: client.hang_up(),
    lambda client: client.feed(b'\x80garbage'), lambda client: client.oneway('storea', b'bad', z64, b'', 7),
    lambda client: (client.start('vote', 7), client.call('tpc_abort', 7)),
    lambda client: (client.start('vote', 7), client.hang_up()),
])
def test_after_any_end_files_and_descriptors_are_as_before(client, storage, end):
    """B2."""
    before = open_files()
    client.begin()
    upload(client, b'a whole one')
    client.oneway('storeBlobStart')
    client.oneway('storeBlobChunk', b'half of one')
    assert len(temporary_files(storage)) == 2
    end(client)
    assert temporary_files(storage) == []
    assert open_files() == before


def test_a_conflict_while_committing_a_blob_leaves_everybody_able_to_commit(desk, client, storage):
    """B3, B2."""
    first = commit_blob(client, b'first')
    second = commit_blob(client, b'second', serial=first)
    client.begin()
    upload(client, b'late', serial=first)
    with pytest.raises(ConflictError):
        client.call('vote', 7)
    assert commit_blob(desk.connect(), b'other', oid=p64(2))
    client.call('tpc_abort', 7)
    assert temporary_files(storage) == []
    assert download(client, commit_blob(client, b'third', serial=second)) == [b'third']


def test_a_conflict_after_a_blob_leaves_no_file_of_it(client, storage):
    """B2, B3: ZODB's storage has moved it already, and removes it only after a vote."""
    serial = commit_blob(client, b'other', oid=p64(2))
    commit_blob(client, b'other', oid=p64(2), serial=serial)
    before = committed_files(storage)
    client.begin()
    upload(client, b'large')
    upload(client, b'late', oid=p64(2), serial=serial)
    with pytest.raises(ConflictError):
        client.call('vote', 7)
    client.call('tpc_abort', 7)
    assert committed_files(storage) == before


def test_a_storage_that_fails_when_it_has_aborted_leaves_no_file(client, storage):
    """B2, L9."""
    def abort(transaction):
        whole(transaction)
        raise KeyError('later')

    whole, storage.tpc_abort = storage.tpc_abort, abort
    client.begin()
    upload(client, b'never committed')
    client.call('vote', 7)
    client.oneway('tpc_abort', 7)
    assert temporary_files(storage) == []


class FullFile:
    """A file on a full disk."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        raise OSError(errno.ENOSPC, 'No space left on device')

    def close(self):
        self._file.close()


def test_no_space_for_a_blob_is_told_at_the_vote_with_the_directory(client, storage, monkeypatch):
    """B4, L7: and nothing is left."""
    fdopen = os.fdopen
    monkeypatch.setattr(operations.os, 'fdopen', lambda *args: FullFile(fdopen(*args)))
    client.begin()
    upload(client, b'too much', b'far too much')
    assert temporary_files(storage) == [], 'it is given up at once'
    with pytest.raises(OSError, match='cannot keep a blob in .+: No space left') as caught:
        client.call('vote', 7)
    assert caught.value.errno == errno.ENOSPC
    client.call('tpc_abort', 7)
    monkeypatch.undo()
    assert commit_blob(client, b'now')


@pytest.mark.parametrize('name, args', [
    ('storeBlobStart', ()), ('storeBlobChunk', (b'x',)), ('storeBlobEnd', (OID, z64, BLOB, 7))])
def test_parts_of_a_blob_outside_a_transaction_close_the_connection(client, storage, name, args):
    """S5b: no temporary file without a transaction."""
    client.oneway(name, *args)
    assert client.lost
    assert temporary_files(storage) == []


def test_a_read_only_session_makes_no_temporary_file(desk, storage):
    """S5b, S7."""
    client = desk.connect(read_only=True)
    client.begin()
    client.oneway('storeBlobStart')
    client.oneway('storeBlobChunk', b'x')
    assert temporary_files(storage) == []
    with pytest.raises(ReadOnlyError):
        client.call('vote', 7)


@pytest.mark.parametrize('parts', [
    ['storeBlobStart', 'storeBlobStart'], ['storeBlobChunk'], ['storeBlobEnd'],
    ['storeBlobStart', 'storeBlobEnd', 'storeBlobChunk']])
def test_parts_in_the_wrong_order_fail_the_transaction(client, storage, parts):
    """B1."""
    args = {'storeBlobStart': (), 'storeBlobChunk': (b'x',), 'storeBlobEnd': (OID, z64, BLOB, 7)}
    client.begin()
    for part in parts:
        client.oneway(part, *args[part])
    with pytest.raises(Exception, match='a blob begins|no blob has begun'):
        client.call('vote', 7)
    assert temporary_files(storage) == []


def test_a_storage_without_blobs_says_so(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    client = Desk({'1': storage}).connect()
    client.begin()
    upload(client, b'x')
    with pytest.raises(Exception, match='no blobs; give it a blob-dir'):
        client.call('vote', 7)
    storage.close()


def test_a_demo_storage_makes_its_blob_directory_when_it_needs_one():
    storage = DemoStorage()
    client = Desk({'1': storage}).connect()
    assert download(client, commit_blob(client, b'demo')) == [b'demo']
    storage.close()


# ---- shared blob directory ------------------------------------------------------------------------

def share(client, storage, content, oid=OID, name='0x00abcdefgh.tmp-', serial=z64):
    """What a client with the same blob directory does."""
    path = os.path.join(storage.fshelper.getPathForOID(oid, create=True), name)
    with open(path, 'wb') as file:
        file.write(content)
    client.oneway('storeBlobShared', oid, serial, BLOB, os.path.basename(path), 7)
    return path


@pytest.mark.parametrize('name', ['0x00abcdefgh.tmp-', '0x00abcdefgh.tmp', '0x2a-4711-3.tmp',
                                  '0x0123456789abcdef01234567.tmp'])
def test_a_blob_in_a_shared_directory_is_taken_over(client, storage, name):
    client.begin()
    path = share(client, storage, b'shared', name=name)
    client.call('vote', 7)
    tid = client.call('tpc_finish', 7)
    with open(storage.loadBlob(OID, tid), 'rb') as file:
        assert file.read() == b'shared'
    assert not os.path.exists(path)


def test_a_shared_blob_of_an_aborted_transaction_is_removed(client, storage):
    """B2."""
    client.begin()
    path = share(client, storage, b'shared')
    client.hang_up()
    assert not os.path.exists(path)


@pytest.mark.parametrize('name', [
    '', '.', '..', '../x', '/etc/passwd', 'a\0b', '0x00abcdefgh.tmp\0', '../0x00abcdefgh.tmp', 'tmp/x.tmp',
    '0x00abcdefgh.blob', '0x040d31bcca5e8eee.blob', '.layout', '0x00abcdefgh.tmp/..', '0x00abcdefgh.tmp\n'])
def test_only_names_that_the_directory_gives_out_are_taken(client, storage, name):
    """B5."""
    client.begin()
    client.oneway('storeBlobShared', OID, z64, BLOB, name, 7)
    with pytest.raises(ValueError, match='name of a shared blob'):
        client.call('vote', 7)


def test_a_committed_blob_cannot_be_taken_for_another(client, storage):
    """B5."""
    tid = commit_blob(client, b'committed')
    client.begin()
    client.oneway('storeBlobShared', OID, tid, BLOB, os.path.basename(storage.loadBlob(OID, tid)), 7)
    with pytest.raises(ValueError, match='name of a shared blob'):
        client.call('vote', 7)
    assert os.path.exists(storage.loadBlob(OID, tid))


def test_a_symbolic_link_is_not_followed(client, storage, tmp_path):
    """B5."""
    (tmp_path / 'secret').write_text('secret')
    directory = storage.fshelper.getPathForOID(OID, create=True)
    os.symlink(tmp_path / 'secret', os.path.join(directory, '0x00abcdefgh.tmp'))
    client.begin()
    client.oneway('storeBlobShared', OID, z64, BLOB, '0x00abcdefgh.tmp', 7)
    with pytest.raises(ValueError, match='not a regular file'):
        client.call('vote', 7)
    assert (tmp_path / 'secret').exists()


def test_a_directory_that_is_not_really_shared_is_named(client, storage):
    """B7."""
    client.begin()
    client.oneway('storeBlobShared', OID, z64, BLOB, '0x00abcdefgh.tmp', 7)
    with pytest.raises(OSError, match='not in the blob directory of the server, .+shared_blob_dir'):
        client.call('vote', 7)


# ---- down -----------------------------------------------------------------------------------------

def test_a_blob_comes_down_in_chunks_before_the_reply(client, monkeypatch):
    tid = commit_blob(client, b'x' * 130_000)
    client.take_notices()
    reply = client.start('sendBlob', OID, tid)
    assert b'.reply' in client.channel.out[-1] and b'receiveBlobStop' in client.channel.out[-2]
    assert client.result(reply) is None
    assert [len(chunk) for chunk in chunks_of(client, tid)] == [59_000, 59_000, 12_000]


@pytest.mark.parametrize('size', [1, 10, 11, 99, 100, 101, 1000])
def test_a_blob_of_any_size_comes_down_whole(client, monkeypatch, size):
    monkeypatch.setattr(downloads, 'BLOB_CHUNK', 10)
    monkeypatch.setattr(downloads, 'PIECE', 100)
    content = bytes(number % 251 for number in range(size))
    tid = commit_blob(client, content)
    client.take_notices()
    reply = client.start('sendBlob', OID, tid)
    while client.channel.room_wanted:
        client.channel.room_wanted = False
        client.session.handle_room()
    assert client.result(reply) is None
    assert b''.join(chunks_of(client, tid)) == content


def test_a_large_blob_waits_for_the_client_to_read(client, monkeypatch):
    """B9: not more than a piece is on its way."""
    monkeypatch.setattr(downloads, 'BLOB_CHUNK', 10)
    monkeypatch.setattr(downloads, 'PIECE', 100)
    tid = commit_blob(client, b'x' * 10_000)
    client.take_notices()
    reply = client.start('sendBlob', OID, tid)
    assert client.channel.room_wanted
    assert len(client.take_notices()) == 11
    assert not client.has_reply(reply)
    assert client.member.downloads._file.tell() == 200  # one piece is there already for when it has


@pytest.mark.parametrize('room_first', [True, False])
def test_room_and_the_next_piece_may_come_in_any_order(client, monkeypatch, room_first):
    """A read takes longer than the client, or the other way round."""
    monkeypatch.setattr(downloads, 'BLOB_CHUNK', 10)
    monkeypatch.setattr(downloads, 'PIECE', 100)
    tid = commit_blob(client, bytes(range(250)) * 2)
    client.take_notices()
    reads = []

    def slow(function):
        reads.append((function, Deferred()))
        return reads[-1][1]

    monkeypatch.setattr(client.member, 'slow', slow)
    reply = client.start('sendBlob', OID, tid)
    while not client.has_reply(reply):
        steps = [client.session.handle_room] if client.channel.room_wanted else []
        if reads:
            function, deferred = reads.pop()
            steps.append(lambda f=function, d=deferred: d.succeed(f()))
        client.channel.room_wanted = False
        for step in steps if room_first else steps[::-1]:
            step()
        client.desk.loop.turn()
    assert b''.join(chunks_of(client, tid)) == bytes(range(250)) * 2


def test_two_downloads_are_not_interleaved(client, monkeypatch):
    """B1."""
    monkeypatch.setattr(downloads, 'BLOB_CHUNK', 10)
    monkeypatch.setattr(downloads, 'PIECE', 100)
    first = commit_blob(client, b'a' * 500)
    second = commit_blob(client, b'b' * 500, oid=p64(2))
    client.take_notices()
    replies = [client.start('sendBlob', OID, first), client.start('sendBlob', p64(2), second)]
    while not all(map(client.has_reply, replies)):
        client.session.handle_room()
    chunks = [args[2][:1] for name, args in client.notices if name == 'receiveBlobChunk']
    assert chunks == [b'a'] * 50 + [b'b'] * 50


def test_other_calls_are_answered_during_a_download(client, monkeypatch):
    monkeypatch.setattr(downloads, 'PIECE', 59_000)
    tid = commit_blob(client, b'x' * 200_000)
    client.start('sendBlob', OID, tid)
    assert client.call('ping') is None


def test_a_download_that_is_broken_off_closes_its_file(desk, client, monkeypatch):
    """C16."""
    monkeypatch.setattr(downloads, 'PIECE', 59_000)
    tid = commit_blob(client, b'x' * 200_000)
    before = open_files()
    client.start('sendBlob', OID, tid)
    assert open_files() == before + 1
    client.hang_up()
    assert open_files() == before


@pytest.mark.parametrize('free', [0, 1, 2])
def test_a_download_that_finds_no_worker_is_an_error_and_does_not_stop_the_next(client, monkeypatch, free):
    """N8: `free` calls are taken, then no more; nobody waits for a blob that will not come."""
    monkeypatch.setattr(downloads, 'PIECE', 59_000)
    tid = commit_blob(client, b'x' * 200_000)
    client.take_notices()
    slow, calls = client.member.slow, []

    def busy(function):
        calls.append(function)
        if len(calls) > free:
            raise TooBusy('1000 calls wait already')
        return slow(function)

    with monkeypatch.context() as patch:
        patch.setattr(client.member, 'slow', busy)
        with pytest.raises(StorageError, match='calls wait already'):
            client.call('sendBlob', OID, tid)
    client.take_notices()
    reply = client.start('sendBlob', OID, tid)
    for _ in range(4):
        client.session.handle_room()
    assert client.has_reply(reply)
    assert b''.join(chunks_of(client, tid)) == b'x' * 200_000


@pytest.mark.parametrize('last', [b'receiveBlobStart', b'receiveBlobStop'])
def test_a_client_that_goes_while_it_is_told_something_ends_its_download(client, monkeypatch, caplog, last):
    """C16, and nothing in the log that was not its fault."""
    tid = commit_blob(client, b'x' * 200_000)
    send = client.channel.send

    def gone(data):
        send(data)
        if last in data:
            client.channel.lose('broken pipe')

    before = open_files()
    monkeypatch.setattr(client.channel, 'send', gone)
    client.start('sendBlob', OID, tid)
    assert (client.lost, open_files()) == ('broken pipe', before)
    assert not [record for record in caplog.records if record.levelname == 'ERROR']


def test_an_unknown_blob_is_an_error_and_the_next_one_is_sent(client):
    tid = commit_blob(client, b'there')
    with pytest.raises(POSKeyError):
        client.call('sendBlob', p64(9), tid)
    assert download(client, tid) == [b'there']


def test_downloads_are_bounded(client, monkeypatch):
    """S5b."""
    monkeypatch.setattr(downloads, 'PIECE', 59_000)
    monkeypatch.setattr(downloads, 'MAX_REQUESTS', 2)
    tid = commit_blob(client, b'x' * 200_000)
    for _ in range(2):
        client.start('sendBlob', OID, tid)
    with pytest.raises(Exception, match='2 blobs are on their way'):
        client.call('sendBlob', OID, tid)


# ---- undo -----------------------------------------------------------------------------------------

@pytest.fixture(params=[lambda storage: storage, HexStorage, lambda storage: DemoStorage(changes=storage)],
                ids=['alone', 'wrapped', 'demo'])
def undoable(storage, request):
    """A client whose last transaction has changed two blobs."""
    client = Desk({'1': request.param(storage)}).connect()
    oids = [OID, p64(2)]
    first = [commit_blob(client, b'first', oid=oid) for oid in oids]
    client.begin()
    for oid, serial in zip(oids, first, strict=True):
        upload(client, b'second', oid=oid, serial=serial)
    client.call('vote', 7)
    client.call('tpc_finish', 7)
    return client


def undo_last(client):
    client.begin()
    client.oneway('undoa', client.call('undoLog', 0, -1)[0]['id'], 7)
    return client.call('vote', 7)




@pytest.mark.parametrize('copied', [0, 1])
def test_an_undo_that_finds_no_room_leaves_nothing(undoable, storage, copied):
    """B2, B4: of the copy that had no room, nor of one that had."""
    copies = iter(range(copied))

    def fill():
        if next(copies, None) is None:
            raise OSError(errno.ENOSPC, 'No space left on device')

    before = committed_files(storage)
    storage.before_copy = fill
    with pytest.raises(OSError, match='cannot write the transaction.*No space left'):
        undo_last(undoable)
    assert [name for name in temporary_files(storage) if not name.endswith('.note')] == []
    undoable.call('tpc_abort', 7)
    assert (committed_files(storage), temporary_files(storage)) == (before, [])
    storage.before_copy = int
    undo_last(undoable)
    assert download(undoable, undoable.call('tpc_finish', 7)) == [b'first']
    assert temporary_files(storage) == []


def test_others_see_nothing_of_the_directory_of_an_undo(undoable, storage):
    """B12: what they write in the midst of it is not taken for its copies."""
    directory, seen = storage.temporaryDirectory(), []

    def look():
        seen.append(os.path.dirname(storage.temporaryDirectory()))
        other = threading.Thread(target=lambda: seen.append(storage.temporaryDirectory()))
        other.start()
        other.join()

    storage.before_copy = look
    undo_last(undoable)
    assert seen == [directory] * 4 and storage.temporaryDirectory() == directory
    undoable.call('tpc_abort', 7)


def test_what_an_undo_was_copying_when_the_server_was_killed_is_removed_at_once(storage, new_server):
    """B12: with its directory; and nothing that only looks like one."""
    directory = storage.temporaryDirectory()
    names = ['undo-0123456789abcdef01234567', 'undo-0123456789ABCDEF01234567', 'undo-0123', 'undo']
    for name in names:
        os.mkdir(os.path.join(directory, name))
        for number in range(2):
            with open(os.path.join(directory, name, f'tmp{number}'), 'wb'):
                pass
    os.symlink(os.path.join(directory, 'undo'), os.path.join(directory, 'undo-ffffffffffffffffffffffff'))
    new_server({'1': storage})
    assert sorted(temporary_files(storage)) == sorted([*names[1:], 'undo-ffffffffffffffffffffffff'])
    assert len(os.listdir(os.path.join(directory, 'undo'))) == 2


def test_the_copy_of_an_undo_that_was_killed_is_removed_when_it_is_old(storage, new_server):
    """B12: older versions let ZODB make it among files of others, as a program of today's may write one."""
    made = {'tmpab_cd123': True, 'tmpzzzzzzzz': False, 'tmpABCDEFGH': True, 'tmp': True, 'mine': True}
    for name, is_old in made.items():
        path = os.path.join(storage.temporaryDirectory(), name)
        with open(path, 'wb'):
            os.utime(path, (time.time() - LEFT_OVER_AGE_S * (1.1 if is_old else 0.5),) * 2)
    new_server({'1': storage})
    assert sorted(temporary_files(storage)) == sorted(set(made) - {'tmpab_cd123'})
