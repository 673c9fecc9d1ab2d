"""Errors keep type and arguments between real ZEO 6.2 and us, in both directions (S4 in part)."""
from __future__ import annotations

import sys

import pytest

from tests.storage.helpers import PackWaits
from tests.support.console_process import RemoteError
from tests.support.peer_env import OLD_ZEO, ZEO

pytestmark = pytest.mark.once

UNKNOWN_OID = b'\0\0\0\0\0\0\xff\xff'

BEGIN = """
from ZODB.Connection import TransactionMetaData
t = TransactionMetaData()
storage.tpc_begin(t)
"""


def error_of(prompt, source):
    with pytest.raises(RemoteError) as caught:
        prompt.run(source)
    return caught.value


def committed_revisions(prompt, number):
    """Commit the root `number` times; its serials, oldest first."""
    return [prompt.run(f"root['x'] = {n}; transaction.commit(); root['x']; root._p_serial")
            for n in range(number)]


@pytest.mark.parametrize('call', [
    f'storage.loadBefore({UNKNOWN_OID!r}, b"\\x7f" + b"\\xff" * 7)',
    f'storage.getTid({UNKNOWN_OID!r})',
    f'storage.history({UNKNOWN_OID!r})',
    f'storage.loadSerial({UNKNOWN_OID!r}, bytes(8))',
], ids=['loadBefore', 'getTid', 'history', 'loadSerial'])
def test_an_unknown_oid_is_a_pos_key_error_with_that_oid(clients, call):
    for prompt in clients:
        error = error_of(prompt, call)
        assert error.class_name == 'ZODB.POSException.POSKeyError'
        assert error.arguments == (UNKNOWN_OID,)
        assert 'builtins.KeyError' in error.bases


def test_a_stale_current_serial_is_a_read_conflict_error_at_vote(clients):
    old, new = committed_revisions(clients[0], 2)
    for prompt in clients:
        prompt.refresh()
        error = error_of(prompt, BEGIN + f"""
storage.checkCurrentSerialInTransaction(bytes(8), {old!r}, t)
storage.tpc_vote(t)
""")
        prompt.run('storage.tpc_abort(t)')
        assert error.class_name == 'ZODB.POSException.ReadConflictError'
        assert error.attributes['oid'] == bytes(8)
        assert error.attributes['serials'] == (new, old)
        assert 'transaction.interfaces.TransientError' in error.bases


def test_what_cannot_be_undone_is_an_undo_error_and_the_next_commit_works(clients):
    committed_revisions(clients[0], 3)
    for prompt in clients:
        prompt.refresh()
        error = error_of(prompt, "db.undo(db.undoInfo(1, 2)[0]['id']); transaction.commit()")
        prompt.run('transaction.abort()')
        assert 'ZODB.POSException.UndoError' in error.bases
        prompt.run("root['y'] = 1; transaction.commit()")


def test_a_read_only_client_cannot_write(combination, serve, console):
    address = serve()
    writer, reader = (console(package) for package in combination[1:])
    writer.connect(address)
    reader.connect(address, read_only=True)
    writer.run("root['x'] = 1; transaction.commit()")
    reader.refresh()
    assert reader.run("storage.isReadOnly(), root['x']") == (True, 1)
    for write in ('storage.new_oid()', BEGIN, "root['x'] = 2; transaction.commit()"):
        assert error_of(reader, write).class_name == 'ZODB.POSException.ReadOnlyError'
        reader.run('transaction.abort()')


def test_a_read_only_server_admits_clients_that_only_read(combination, hosts, tmp_path, console):
    """The server's ReadOnlyError at register lets the client fall back to reading."""
    path = str(tmp_path / 'Data.fs')
    host = hosts[combination[0]]
    storages = [{'kind': 'file', 'path': path}]
    prompts = [console(package) for package in combination[1:]]
    served = host.start(storages)
    prompts[0].connect(served.address)
    prompts[0].run("root['x'] = 1; transaction.commit()")
    prompts[0].forget()
    host.stop(served)
    served = host.start(storages, read_only=True)
    try:
        for prompt in prompts:
            prompt.connect(served.address, read_only_fallback=True)
            assert prompt.run("storage.isReadOnly(), root['x']") == (True, 1)
            error = error_of(prompt, "root['x'] = 2; transaction.commit()")
            assert error.class_name == 'ZODB.POSException.ReadOnlyError'
    finally:
        for prompt in prompts:
            prompt.forget()
        host.stop(served)


def test_a_failed_commit_of_one_does_not_keep_the_other_from_committing(clients):
    """The commit lock is free again after a conflict and its abort."""
    one, other = clients
    committed_revisions(one, 1)
    other.refresh()
    other.run("root['x']")
    committed_revisions(one, 1)
    other.run("root['x'] = 'late'")
    assert error_of(other, 'transaction.commit()').class_name == 'ZODB.POSException.ConflictError'
    one.run("root['x'] = 'free'; transaction.commit()")
    other.run('transaction.abort()')
    other.refresh()
    assert other.run("root['x']") == 'free'


@pytest.mark.parametrize('package', [ZEO, OLD_ZEO] if sys.version_info < (3, 12) else [ZEO])
def test_zeo_is_told_that_a_storage_is_being_packed(package, new_server, console, client, tmp_path):
    """L12: by an exception of a class that it knows."""
    served = PackWaits(str(tmp_path / 'Data.fs'))
    server = new_server({'1': served})
    prompt = console(package)
    prompt.connect(server.addr)
    client(server.addr, client_label='nightly').pack(wait=False)
    try:
        error = error_of(prompt, 'storage.pack()')
    finally:
        served.go_on.set()
    assert error.class_name == 'ZODB.POSException.StorageTransactionError'
    assert '(nightly)' in error.arguments[0]
