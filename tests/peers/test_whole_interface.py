"""Blobs, iteration, restoring, deletion, prefetching, conflicts left to clients: real ZEO and we."""
from __future__ import annotations

import pytest

from tests.peers.conftest import OURS
from tests.support.console_process import RemoteError

pytestmark = pytest.mark.once

BLOB = """
from ZODB.blob import Blob
def put(name, number, size):
    root[name] = Blob()
    with root[name].open('w') as file:
        file.write((b'%08d' % number) * (size // 8))
def read(name):
    with root[name].open() as file:
        return file.read()
def get(name):
    data = read(name)
    return int(data[:8]), len(data), data == data[:8] * (len(data) // 8)
"""

BY_HAND = """
from ZODB.Connection import TransactionMetaData
def by_hand(function, *tid):
    t = TransactionMetaData()
    storage.tpc_begin(t, *tid)
    try:
        function(t)
        storage.tpc_vote(t)
    except BaseException:
        storage.tpc_abort(t)
        raise
    return storage.tpc_finish(t)
"""


def test_blobs_of_one_are_read_by_the_other(blob_clients):
    """B1: several per transaction, smaller and larger than a chunk, and empty ones."""
    one, other = blob_clients
    for prompt in blob_clients:
        prompt.run(BLOB)
    for writer, reader, first in [(one, other, 1), (other, one, 2)]:
        writer.refresh()
        writer.run(f"""
put('small', {first}, 80)
put('large', {first}, 400_000)
put('chunk', {first}, 59_000)
root['empty'] = Blob(b'')
transaction.commit()
""")
        reader.refresh()
        assert reader.run("get('small'), get('large'), get('chunk')") == (
            (first, 80, True), (first, 400_000, True), (first, 59_000, True))
        assert reader.run("read('empty')") == b''


def test_blobs_in_the_directory_of_the_server(combination, serve, console, tmp_path):
    """C26, B11: names that each client makes up are taken by each server; nothing else is left there."""
    address = serve()
    one, other = prompts = [console(package) for package in combination[1:]]
    for prompt in prompts:
        prompt.connect(address, blob_dir=str(tmp_path / '0.blobs'), shared_blob_dir=True)
        prompt.run(BLOB)
    for writer, reader, first in [(one, other, 1), (other, one, 2)]:
        writer.refresh()
        writer.run(f"put('blob', {first}, 400_000); transaction.commit()")
        reader.refresh()
        assert reader.run("get('blob')") == (first, 400_000, True)
    files = {path.suffix for path in (tmp_path / '0.blobs').rglob('*') if path.is_file()}
    assert files == {'.blob', ''}  # the layout's


def test_a_blob_cache_goes_from_one_to_the_other(combination, serve, console, tmp_path):
    """B11: each finds the blobs whole, also one that the other's cache has lost bytes of."""
    address = serve()
    one, other = (console(package) for package in combination[1:])
    one.connect(address, blob_dir=str(tmp_path / 'cache'))
    one.run(BLOB)
    one.run("put('a', 1, 4000); put('b', 2, 4000); transaction.commit()")
    one.forget()
    for path in (tmp_path / 'cache').rglob('*.blob'):
        if combination[1] != OURS and combination[2] == OURS:
            path.chmod(0o600)
            path.write_bytes(b'')
    other.connect(address, blob_dir=str(tmp_path / 'cache'))
    other.run(BLOB)
    assert other.run("get('a'), get('b')") == ((1, 4000, True), (2, 4000, True))


def test_a_conflict_with_a_blob_is_a_conflict_error_and_undo_brings_back_the_old_one(blob_clients):
    """B3."""
    one, other = blob_clients
    for prompt in blob_clients:
        prompt.run(BLOB)
    one.run("put('b', 1, 800); transaction.commit()")
    other.refresh()
    assert other.run("get('b')") == (1, 800, True)
    one.run("with root['b'].open('w') as file: _ = file.write(b'00000002')\n")
    other.run("with root['b'].open('w') as file: _ = file.write(b'00000003')\n")
    one.run("transaction.commit()")
    with pytest.raises(RemoteError) as caught:
        other.run('transaction.commit()')
    assert caught.value.class_name == 'ZODB.POSException.ConflictError'
    other.run('transaction.abort()')
    other.refresh()
    assert other.run("get('b')") == (2, 8, True)
    other.run("db.undo(db.undoInfo(0, 1)[0]['id']); transaction.commit()")
    one.refresh()
    assert one.run("get('b')") == (1, 800, True)


def test_an_unknown_blob_is_a_pos_key_error(blob_clients):
    for prompt in blob_clients:
        with pytest.raises(RemoteError) as caught:
            prompt.run('storage.loadBlob(b"\\0" * 6 + b"\\xff\\xff", b"\\0" * 7 + b"\\1")')
        assert caught.value.class_name == 'ZODB.POSException.POSKeyError'


def test_iteration_tells_the_same_to_both(clients):
    """Transactions, their meta data and records; whole, from, to, and empty; over many transactions."""
    one, other = clients
    tids = []
    for number in range(30):
        one.run(f"""
t = transaction.get(); t.setUser('user'); t.note('number {number}'); t.setExtendedInfo('n', {number})
root['x'] = {number}; t.commit()
""")
        tids.append(one.run('root["x"]; root._p_serial'))
    told = [prompt.run(f"""
def described(*args):
    return [(t.tid, t.status, t.user, t.description, t.extension,
             [(r.oid, r.tid, r.data, r.data_txn) for r in t]) for t in storage.iterator(*args)]
whole = described()
parts = described({tids[5]!r}), described({tids[5]!r}, {tids[7]!r}), described({tids[-1]!r}, {tids[0]!r})
len(whole), [t[0] for t in parts[0]], [t[0] for t in parts[1]], parts[2], whole[-3:]
""") for prompt in clients]
    assert told[0] == told[1]
    count, *parts, last = told[0]
    assert count == 31
    assert parts == [tids[5:], tids[5:8], []]
    assert [t[4] for t in last] == [{'n': 27}, {'n': 28}, {'n': 29}]


def test_current_records_come_one_after_another(clients):
    one, _ = clients
    one.run("from persistent.mapping import PersistentMapping\n"
            "for i in range(5): root[i] = PersistentMapping()\n"
            "transaction.commit()")
    told = [prompt.run("""
found, next = [], None
while True:
    oid, tid, data, next = storage.record_iternext(next)
    found.append((oid, tid, len(data)))
    if next is None:
        break
found
""") for prompt in clients]
    assert told[0] == told[1]
    assert len(told[0]) == 6


def test_a_storage_is_copied_record_by_record(combination, serve, console, tmp_path):
    """`restore`, through the first client; the second one reads the copy.  ZEO leaves the files of blobs
    behind; ours does not."""
    from ZODB import DB
    from ZODB.blob import Blob
    from ZODB.FileStorage import FileStorage
    source = DB(FileStorage(str(tmp_path / 'source.fs'), blob_dir=str(tmp_path / 'source-blobs')))
    for number in range(5):
        with source.transaction('number') as connection:
            connection.root()['x'] = number
            connection.root()['blob'] = Blob(b'blob %d' % number)
    last = source.lastTransaction()
    source.close()
    address = serve()
    one, other = (console(package) for package in combination[1:])
    one.run(f"""
from {one.package.partition(' ')[0]}.ClientStorage import ClientStorage
from ZODB.FileStorage import FileStorage
target = ClientStorage({address!r}, blob_dir={str(tmp_path / 'one')!r})
source = FileStorage({str(tmp_path / 'source.fs')!r}, blob_dir={str(tmp_path / 'source-blobs')!r})
target.copyTransactionsFrom(source)
source.close()
target.close()
""")
    other.connect(address, blob_dir=str(tmp_path / 'other'))
    assert other.run("storage.lastTransaction()") == last
    assert other.run("root['x'], len(list(storage.iterator()))") == (4, 6)
    if one.package == OURS:
        other.run(BLOB)
        assert other.run("read('blob')") == b'blob 4'


def test_deleted_objects_are_gone_for_both(clients):
    """`IExternalGC`; a serial that is not current is a conflict."""
    one, other = clients
    for prompt in clients:
        prompt.run(BY_HAND)
    oid, old = one.run("""
from persistent.mapping import PersistentMapping
root['gone'] = PersistentMapping(); transaction.commit()
gone = root['gone']; gone._p_oid, gone._p_serial
""")
    new = one.run("gone['x'] = 1; transaction.commit(); gone['x']; gone._p_serial")
    other.refresh()
    assert other.run("root['gone']['x']") == 1
    for prompt in clients:
        with pytest.raises(RemoteError) as caught:
            prompt.run(f'by_hand(lambda t: storage.deleteObject({oid!r}, {old!r}, t))')
        assert caught.value.class_name == 'ZODB.POSException.ConflictError'
    other.run(f'by_hand(lambda t: storage.deleteObject({oid!r}, {new!r}, t))')
    one.refresh()
    for prompt in clients:
        with pytest.raises(RemoteError) as caught:
            prompt.run(f'storage.loadBefore({oid!r}, b"\\x7f" + b"\\xff" * 7)')
        assert caught.value.class_name == 'ZODB.POSException.POSKeyError'


def test_prefetched_objects_need_no_further_request(clients):
    one, other = clients
    one.run("""
from persistent.mapping import PersistentMapping
for i in range(40): root[i] = PersistentMapping(n=i)
transaction.commit()
""")
    other.refresh()
    assert other.run("""
objects = [root[i] for i in range(40)]
conn.prefetch(objects)
storage.server_status()  # answered after the objects
loads = storage.server_status()['loads']
sum(o['n'] for o in objects), storage.server_status()['loads'] - loads
""") == (sum(range(40)), 0)


def test_get_tid_and_load_serial(clients):
    one, other = clients
    first = one.run("root['x'] = 1; transaction.commit(); root['x']; root._p_serial")
    second = one.run("root['x'] = 2; transaction.commit(); root['x']; root._p_serial")
    for prompt in clients:
        assert prompt.run('storage.getTid(bytes(8))') == second
        assert prompt.run(f'storage.loadSerial(bytes(8), {first!r})'
                          f' != storage.loadSerial(bytes(8), {second!r})') is True
    other.refresh()
    assert other.run(f'storage.loadBefore(bytes(8), {second!r})[1:]') == (first, second)


def test_conflicts_that_the_server_leaves_to_clients_are_resolved_by_them(combination, serve, console):
    address = serve(client_conflict_resolution=True)
    one, other = (console(package) for package in combination[1:])
    for prompt in (one, other):
        prompt.connect(address)
    one.run("from BTrees.Length import Length; root['n'] = Length(10); transaction.commit()")
    other.refresh()
    other.run("root['n']()")
    for first, second, expected in [(one, other, 111), (other, one, 212)]:
        for prompt in (one, other):
            prompt.refresh()
            prompt.run("root['n']()")
        first.run("root['n'].change(1)")
        second.run("root['n'].change(100)")
        first.run('transaction.commit()')
        second.run('transaction.commit()')
        assert second.run("root['n']()") == expected
        first.refresh()
        assert first.run("root['n']()") == expected
    one.run("root['x'] = 1")
    other.run("root['x'] = 2")
    one.run('transaction.commit()')
    with pytest.raises(RemoteError) as caught:
        other.run('transaction.commit()')
    assert caught.value.class_name == 'ZODB.POSException.ConflictError'
    other.run('transaction.abort()')
