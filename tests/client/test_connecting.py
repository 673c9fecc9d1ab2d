"""Finding, losing and leaving servers."""
from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest
from ZODB.event import notify  # noqa: F401  (the event module must exist)
from ZODB.POSException import ReadOnlyError
from ZODB.utils import maxtid

from tests.client.fake_server import FakeServer, Refuse, p64
from tests.client.test_order import Wrapper
from tests.support import inside
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.world import REAL_WORLD
from zeo_clone.Exceptions import ClientDisconnected

OID = p64(7)


def test_nobody_listens(opened):
    """N13: the exception names the address and the last error there."""
    server = FakeServer()
    address = server.address
    server.close()
    with pytest.raises(ClientDisconnected, match=rf'127\.0\.0\.1:{address[1]}.*refused'):
        ClientStorage(address, wait_timeout=0.1)


def test_each_address_has_its_last_error(fake, opened):
    """N13: refused at one, unknown storage at the other; both are told."""
    gone = FakeServer()
    gone.close()

    def unknown(connection, storage, read_only):
        raise ValueError(f'unknown storage: {storage!r}')

    fake.answers['register'] = unknown
    with pytest.raises(ClientDisconnected) as caught:
        ClientStorage([gone.address, fake.address], storage='nope', wait_timeout=2)
    assert f'127.0.0.1:{gone.address[1]}: ConnectionRefusedError' in str(caught.value)
    assert f"127.0.0.1:{fake.address[1]}: ValueError: unknown storage: 'nope'" in str(caught.value)


def test_wait_false_returns_at_once(opened):
    gone = FakeServer()
    gone.close()
    storage = opened(gone.address, wait=False, wait_timeout=0.05)
    assert not storage.is_connected()
    assert storage.getName().endswith('(disconnected)')
    with pytest.raises(ClientDisconnected):
        storage.ping()


def test_the_tutorials_mistake_gets_the_right_call():
    with pytest.raises(TypeError, match=r"ClientStorage\(\('localhost', 9100\)\)"):
        ClientStorage('localhost', 9100)


def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="'chache_size'"):
        ClientStorage(9100, chache_size=5)


def test_arguments_of_old_versions_are_accepted(opened):
    opened(disconnect_poll=5, drop_cache_rather_verify=True, username='a', password='b', realm='c',
           min_disconnect_poll=1, max_disconnect_poll=30)


def test_the_client_comes_back_and_sees_what_it_missed(fake, opened):
    """C6: after a reconnect lastTransaction() is the server's, without a new commit."""
    fake.tid = p64(1)
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'old', p64(1), None)
    storage = opened()
    db = Wrapper(storage)
    storage.loadBefore(OID, maxtid)
    fake.tid = p64(4)
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(4), [OID])
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    assert storage.lastTransaction() == p64(4)
    assert db.told == [(p64(4), [OID])]
    assert ('getInvalidations', (p64(1),)) in fake.calls
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'new', p64(3), None)
    assert storage.loadBefore(OID, p64(5))[0] == b'new'


def test_an_up_to_date_cache_is_kept(fake, opened):
    """K5: a reconnect without news drops nothing, here or in open connections."""
    fake.tid = p64(1)
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'old', p64(1), None)
    storage = opened()
    db = Wrapper(storage)
    storage.loadBefore(OID, maxtid)
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    assert (db.told, db.cache_dropped) == ([], 0)
    loads = fake.called('loadBefore')
    storage.loadBefore(OID, maxtid)
    assert fake.called('loadBefore') == loads


def test_a_cache_that_is_too_old_is_dropped(fake, opened):
    """The server does not remember so far back: StaleCache is announced, everything is asked anew."""
    from ZODB import event

    from zeo_clone.interfaces import StaleCache
    fake.tid = p64(1)
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'old', p64(1), None)
    storage = opened()
    db = Wrapper(storage)
    storage.loadBefore(OID, maxtid)
    events = []
    original, event.notify = event.notify, events.append
    module = sys.modules['zeo_clone.client.verification']
    module.notify = events.append
    try:
        fake.tid = p64(9)
        fake.client.cut()
        fake.wait(lambda: len(fake.registered) == 2)
        storage.ping()
    finally:
        event.notify = module.notify = original
    assert [(type(e), e.storage) for e in events] == [(StaleCache, storage)]
    assert db.cache_dropped == 2  # before and after it hears of the new tid: see `effects`
    assert storage.lastTransaction() == p64(9)
    loads = fake.called('loadBefore')
    storage.loadBefore(OID, maxtid)
    assert fake.called('loadBefore') == loads + 1


def test_invalidations_during_verification_are_kept(fake, opened):
    """C4: what comes while the cache is verified is applied afterwards, unless verified already."""
    fake.tid = p64(1)
    storage = opened()
    db = Wrapper(storage)

    def invalidations(connection, tid):
        for number in (3, 4, 5):
            connection.notice('invalidateTransaction', p64(number), [p64(number)])
        return p64(4), [p64(2), p64(3), p64(4)]

    fake.answers['getInvalidations'] = invalidations
    fake.tid = p64(3)
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    assert db.told == [(p64(4), [p64(2), p64(3), p64(4)]), (p64(5), [p64(5)])]
    assert storage.lastTransaction() == p64(5)


def test_a_server_that_is_older_than_the_cache_is_refused(fake, connected):
    """K3: a restored backup is named; the client does not go on with a cache from the future."""
    fake.tid = p64(9)
    storage = connected(wait_timeout=0.3)
    fake.tid = p64(5)
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) >= 3)
    with pytest.raises(ClientDisconnected, match='restored from a backup'):
        storage.ping()
    assert storage.lastTransaction() == p64(9)


def test_only_one_of_several_servers_is_used(fake, opened):
    """C4: with several addresses one connection is verified and used; the others are closed."""
    other = FakeServer()
    try:
        storage = opened([fake.address, other.address])
        storage.ping()
        used, unused = (fake, other) if fake.called('ping') else (other, fake)
        unused.wait(lambda: not unused.connections)
        assert used.called('get_info') == 1
        assert unused.called('get_info') == 0
        assert len(used.connections) == 1
    finally:
        other.close()


def test_the_next_server_takes_over(fake, opened):
    other = FakeServer()
    storage = opened([other.address, fake.address])
    other.close()
    storage.ping()
    assert fake.called('ping') or storage.is_connected()
    fake.wait(lambda: fake.registered)


def test_new_addr_leaves_the_present_server(fake, opened):
    other = FakeServer()
    try:
        storage = opened()
        storage.new_addr(other.address)
        other.wait(lambda: other.called('get_info'))
        fake.wait(lambda: not fake.connections)
        storage.ping()
        assert other.called('ping') == 1
        assert str(other.address[1]) in storage.getName()
    finally:
        other.close()


def test_read_only_fallback(fake, opened):
    """N11: a server that refuses writers is used read-only, if that is wished."""
    def register(connection, storage, read_only):
        if not read_only:
            raise ReadOnlyError()
        return fake.tid

    fake.answers['register'] = register
    storage = opened(read_only_fallback=True)
    assert storage.isReadOnly()
    with pytest.raises(ReadOnlyError):
        storage.new_oid()
    with pytest.raises(ClientDisconnected, match='ReadOnlyError'):
        ClientStorage(fake.address, wait_timeout=2)
    # The server becomes writable: the client notices and changes over.
    fake.answers['register'] = lambda connection, storage, read_only: fake.tid
    fake.wait(lambda: any([name for name, _ in connection.calls] == ['register', 'get_info']
                          for connection in fake.registered))
    storage.ping()
    assert not storage.isReadOnly()


def test_close_ends_a_waiting_call(fake, opened):
    """N12: close() from another thread; the waiting call fails and close returns."""
    def never(connection):
        raise Refuse

    fake.answers['ping'] = never
    storage = opened()
    errors = []

    def wait():
        try:
            storage.ping()
        except ClientDisconnected as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    fake.wait(lambda: fake.called('ping'))
    storage.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(errors) == 1
    storage.close()
    with pytest.raises(ClientDisconnected):
        storage.ping()


def test_storages_share_one_io_thread(fake, opened):
    before = {thread.ident for thread in threading.enumerate()}
    storages = [opened() for _ in range(5)]
    new = [thread for thread in threading.enumerate()
           if thread.ident not in before and thread.name == 'zeo_clone I/O']
    assert len(new) == 1
    for storage in storages:
        storage.close()
    assert not new[0].is_alive()
    assert REAL_WORLD.io_thread._loop is None


def test_any_number_of_threads_on_one_storage(fake, opened):
    fake.answers['loadBefore'] = lambda connection, oid, before: (oid * 100, p64(1), None)
    storage = opened(cache_size=0)
    wrong = []

    def read(start):
        for number in range(start, start + 300):
            oid = p64(number)
            if storage.loadBefore(oid, maxtid) != (oid * 100, p64(1), None):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(1000 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


SCRIPT = '''
import sys
from zeo_clone.client.storage import ClientStorage
storage = ClientStorage(('127.0.0.1', int(sys.argv[1])), io_thread=sys.argv[2] == 'thread')
storage.ping()
print('done')
'''


@pytest.mark.parametrize('mode', ['thread', 'none'])
def test_a_script_ends_silently(fake, mode):
    """N12: a script that does not close its storage ends at once and silently under -W error."""
    done = subprocess.run([sys.executable, '-X', 'dev', '-W', 'error', '-c', SCRIPT,
                           str(fake.address[1]), mode], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'done\n', '')


def test_without_an_io_thread_the_application_turns_the_loop(fake, opened):
    """io_thread=False: no thread; sync() and poll() process what has arrived."""
    from zeo_clone.loop import application_loop, poll
    fake.tid = p64(1)
    storage = opened(io_thread=False)
    assert 'zeo_clone I/O' not in [thread.name for thread in threading.enumerate()]
    db = Wrapper(storage)
    fake.client.notice('invalidateTransaction', p64(2), [OID])
    storage.ping()  # the notice came before the reply
    assert db.told == [(p64(2), [OID])]
    fake.client.notice('invalidateTransaction', p64(3), [OID])
    assert poll(10)
    assert storage.lastTransaction() == p64(3)
    fake.client.notice('invalidateTransaction', p64(4), [OID])
    application_loop().runtime.wait(inside.link(storage).channel.fd, True, False, 10)
    storage.sync()
    assert storage.lastTransaction() == p64(4)


def test_a_link_on_which_a_send_has_failed_is_not_handed_out(fake, opened):
    """C16: until the loop has buried it, which nobody turns here, it is ready in name only."""
    storage = opened(io_thread=False)
    manager = inside.manager(storage)
    link = manager.link(10)
    link.channel.socket.shutdown(socket.SHUT_WR)
    link.channel.send('set_client_label', ('lost',), flush=True)
    assert link.channel.fate is not None and not link.channel.closed
    assert manager.ready is link
    other = manager.link(10)
    assert other is not link
    assert other.channel.fate is None
    storage.ping()
    assert fake.called('ping') == 1
