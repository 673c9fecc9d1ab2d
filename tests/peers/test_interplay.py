"""Real ZEO 6.2 and we, in all combinations of server and two clients: commits, conflicts, invalidations.

Each test runs in `COMBINATIONS`; the clients are processes of their own, each with ZODB's DB.
"""
from __future__ import annotations

import datetime

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from tests.support.console_process import RemoteError
from tests.support.peer_env import import_name

COMMIT = 'transaction.commit()'
LOADS = "storage.server_status()['loads']"

CONFLICT_ERROR = 'ZODB.POSException.ConflictError'


def test_each_sees_what_the_other_committed(clients):
    for writer, reader, value in [(*clients, 1), (*reversed(clients), 2)]:
        writer.refresh()
        writer.run(f"root['x'] = {value}; transaction.commit()")
        reader.refresh()
        assert reader.run("root['x']") == value


def test_transactions_of_many_and_of_large_objects_arrive_whole(clients):
    one, other = clients
    one.run("""
from persistent.mapping import PersistentMapping
for i in range(500):
    root[i] = PersistentMapping(n=i)
root['large'] = bytes(range(256)) * 8000
transaction.commit()
""")
    other.refresh()
    assert other.run('sum(root[i]["n"] for i in range(500))') == sum(range(500))
    assert other.run("root['large'] == bytes(range(256)) * 8000") is True


def test_both_make_new_objects_and_no_oid_is_given_twice(clients):
    for prompt in clients:
        prompt.start('[storage.new_oid() for _ in range(250)]')
    oids = [oid for prompt in clients for oid in prompt.finish()]
    assert len(set(oids)) == 500


def test_both_commit_at_once_without_conflict(clients):
    for name, prompt in zip('ab', clients, strict=True):
        prompt.refresh()
        prompt.run('from persistent.mapping import PersistentMapping')
        prompt.run(f"mine = root[{name!r}] = PersistentMapping(); transaction.commit()")
    for prompt in clients:
        prompt.start('for i in range(50): mine[i] = i; transaction.commit()')
    for prompt in clients:
        prompt.finish()
    for prompt in clients:
        prompt.refresh()
        assert prompt.run("len(root['a']), len(root['b'])") == (50, 50)


@pytest.mark.parametrize('first', [0, 1])
def test_the_second_of_two_conflicting_changes_gets_conflict_error(clients, first):
    winner, loser = clients[first], clients[1 - first]
    winner.run("root['x'] = 'old'; transaction.commit()")
    loser.refresh()
    read = loser.run("root['x']; root._p_serial")
    winner.run("root['x'] = 'winner'; transaction.commit()")
    committed = winner.run("root['x']; root._p_serial")
    loser.run("root['x'] = 'loser'")
    with pytest.raises(RemoteError) as caught:
        loser.run(COMMIT)
    error = caught.value
    assert error.class_name == CONFLICT_ERROR
    assert error.attributes['oid'] == bytes(8)
    assert error.attributes['serials'] == (committed, read)
    assert error.attributes['class_name'] == 'persistent.mapping.PersistentMapping'
    loser.run('transaction.abort()')
    loser.refresh()
    loser.run("root['x'] += ', then loser'; transaction.commit()")
    winner.refresh()
    assert winner.run("root['x']") == 'winner, then loser'


def test_a_conflict_that_the_class_can_resolve_is_resolved_on_the_server(clients):
    one, other = clients
    one.run("from BTrees.Length import Length; root['n'] = Length(10); transaction.commit()")
    other.refresh()
    other.run("root['n']()")
    one.run("root['n'].change(1)")
    other.run("root['n'].change(100)")
    one.run(COMMIT)
    other.run(COMMIT)
    assert other.run("root['n']()") == 111
    one.refresh()
    assert one.run("root['n']()") == 111


def test_an_object_read_before_needs_no_request_until_its_invalidation(clients):
    one, other = clients
    one.run("root['x'] = 1; transaction.commit()")
    other.refresh()
    loads = other.run("root['x']; " + LOADS)
    assert other.run("conn.cacheMinimize(); root['x']") == 1
    assert other.run(LOADS) == loads
    one.run("root['x'] = 2; transaction.commit()")
    other.refresh()
    assert other.run("root['x']") == 2
    assert other.run(LOADS) == loads + 1


def test_server_sync_shows_what_was_committed_before(combination, serve, console):
    address = serve()
    one, other = (console(package) for package in combination[1:])
    one.connect(address)
    other.connect(address, server_sync=True)
    for value in range(20):
        one.run(f"root['x'] = {value}; transaction.commit()")
        assert other.run("transaction.begin(); root['x']") == value


def test_undo_by_one_is_seen_by_the_other(clients):
    one, other = clients
    one.run("root['x'] = 'first'; transaction.commit()")
    one.run("root['x'] = 'second'; transaction.get().note('to undo'); transaction.commit()")
    other.refresh()
    assert other.run("root['x']") == 'second'
    assert other.run("db.undoInfo(0, 1)[0]['description']") == 'to undo'
    other.run("db.undo(db.undoInfo(0, 1)[0]['id']); transaction.commit()")
    one.refresh()
    assert one.run("root['x']") == 'first'
    other.refresh()
    assert other.run("root['x']") == 'first'


def test_user_description_and_extension_are_kept_in_the_logs(clients):
    one, other = clients
    one.run("""
t = transaction.get()
t.setUser('user', '/path'); t.note('a note'); t.setExtendedInfo('key', [1, 2])
root['x'] = 1
t.commit()
""")
    log = other.run('[{**entry, "time": 0} for entry in storage.undoLog(0, 1)]')
    assert len(log) == 1
    assert log[0]['user_name'] == b'/path user'
    assert log[0]['description'] == b'a note'
    assert log[0]['key'] == [1, 2]
    assert other.run("storage.undoInfo(0, -20, {'user_name': b'nobody'})") == []
    assert len(other.run("storage.undoInfo(0, -20, {'user_name': b'/path user'})")) == 1


def test_history_tells_all_revisions_newest_first(clients):
    one, other = clients
    serials = [one.run(f"root['x'] = {n}; transaction.commit(); root['x']; root._p_serial")
               for n in range(3)]
    history = other.run('db.history(root._p_oid, 3)')
    assert [entry['tid'] for entry in history] == serials[::-1]


def test_pack_removes_old_revisions_for_everyone(clients):
    one, other = clients
    old = one.run("root['x'] = 1; transaction.commit(); root['x']; root._p_serial")
    one.run("root['x'] = 2; transaction.commit()")
    assert other.run(f'len(storage.loadSerial(root._p_oid, {old!r})) > 0') is True
    other.run('import time; db.pack(time.time() + 1)')
    for prompt in clients:
        assert prompt.run('len(storage.undoLog(0, 100))') == 0
        with pytest.raises(RemoteError) as caught:
            prompt.run(f'storage.loadSerial(root._p_oid, {old!r})')
        assert caught.value.class_name == 'ZODB.POSException.POSKeyError'
    one.refresh()
    assert one.run("root['x']") == 2


def test_what_the_server_says_about_its_storage_is_the_same_for_both(clients):
    facts = [prompt.run('storage.supportsUndo(), storage.isReadOnly(), storage.getName()[-12:],'
                        ' storage.lastTransaction()')
             for prompt in clients]
    assert facts[0] == facts[1]
    assert facts[0][:3] == (True, False, ' (connected)')
    statuses = [set(prompt.run('storage.server_status()')) for prompt in clients]
    assert statuses[0] == statuses[1] >= {
        'connections', 'loads', 'stores', 'commits', 'aborts', 'active_txns', 'lock_time',
        'conflicts', 'conflicts_resolved', 'start', 'waiting', 'timeout-thread-is-alive',
        'last-transaction'}


def test_a_date_in_an_extension_keeps_nobody_from_the_logs(tmp_path, hosts, console, combination):
    """S3.  It was written without a server.  ZEO's clients get it as text; ours as a date, whoever serves."""
    package, *others = combination
    path = str(tmp_path / 'Old.fs')
    storage = FileStorage(path)
    meta = TransactionMetaData(b'', b'a note', {'when': datetime.date(2020, 1, 2)})
    storage.tpc_begin(meta)
    storage.store(bytes(8), bytes(8), b'data', '', meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    storage.close()
    served = hosts[package].start([{'kind': 'file', 'path': path}])
    try:
        for prompt, client in zip(map(console, others), others, strict=True):
            if client != 'zeo_clone' and package != 'zeo_clone':
                continue  # ZEO's server and client cannot do that
            prompt.run(f'from {import_name(client)} import ClientStorage\n'
                       f'storage = ClientStorage.ClientStorage({served.address!r})')
            for entry in ("storage.undoLog(0, 1)[0]['when']", "storage.history(bytes(8), 1)[0]['when']",
                          "list(storage.iterator())[0].extension['when']"):
                text = prompt.run(f'repr({entry})')
                assert text == ('datetime.date(2020, 1, 2)' if client == 'zeo_clone'
                                else repr('datetime.date(2020, 1, 2)'))
    finally:
        hosts[package].stop(served)


def test_a_date_in_an_extension_is_committed_as_what_the_server_takes(clients, combination):
    """ZEO's servers take none: they get a text."""
    server, *packages = combination
    for prompt, package in zip(clients, packages, strict=True):
        if package != 'zeo_clone':
            continue
        prompt.refresh()
        prompt.run("import datetime; transaction.get().setExtendedInfo('when', datetime.date(2020, 1, 2))\n"
                   "root['x'] = 1; transaction.commit()")
        found = prompt.run("repr(storage.undoLog(0, 1)[0]['when'])")
        assert found == ('datetime.date(2020, 1, 2)' if server == 'zeo_clone'
                         else repr('datetime.date(2020, 1, 2)'))
