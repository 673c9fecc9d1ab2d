"""N10: what happens to storages when their process forks."""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.long

START = '''
import atexit, ctypes, multiprocessing, os, sys, threading, warnings
warnings.filterwarnings('ignore', category=DeprecationWarning)  # of fork() itself, since Python 3.12
early = []
os.register_at_fork(after_in_child=lambda: [hook() for hook in early])  # before zeo_clone has its own
import transaction, ZODB
from persistent.mapping import PersistentMapping
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected

address, cache, io_thread = ('127.0.0.1', int(sys.argv[1])), sys.argv[2], sys.argv[3] == 'thread'

def open_db(**options):
    return ZODB.DB(ClientStorage(address, cache=cache, io_thread=io_thread, wait_timeout=20,
                                 **options), pool_size=99)

def storage_of(db):
    return db.storage

def add(db, key):
    with db.transaction() as connection:
        root = connection.root()
        root[key] = root.get(key, 0) + 1

def read(db, key):
    with db.transaction() as connection:
        return connection.root()[key]

def waits(thread):
    """Does a thread sleep in its poller?"""
    with open(f'/proc/self/task/{thread}/wchan') as file:
        return 'poll' in file.read()

def fork():
    """By Python, or by C, which runs none of Python's hooks.  Then no other thread may be in the interpreter:
    the locks of that would stay locked in the child."""
    if sys.argv[4] == 'python':
        return os.fork()
    me = str(threading.get_native_id())
    while not all(thread == me or waits(thread) for thread in os.listdir('/proc/self/task')):
        pass
    return ctypes.PyDLL(None).fork()

def in_child(function):
    """What `function` says in a child of fork()."""
    reader, writer = os.pipe()
    pid = fork()
    if not pid:
        try:
            os.close(reader)
            said = repr(function()).encode()
        except BaseException as error:
            said = repr(error).encode()
        os.write(writer, said)
        os._exit(0)
    os.close(writer)
    with open(reader, 'rb') as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return said
'''


@pytest.fixture(params=['python', 'C'])
def forker(request):
    """Who forks."""
    return request.param


@pytest.fixture(params=['thread', 'none'])
def script(server_process, tmp_path, request, forker):
    """Run a script in a process of its own; what it printed."""
    def run(source):
        process = subprocess.Popen(
            [sys.executable, '-W', 'error', '-c', START + textwrap.dedent(source),
             str(server_process.address[1]), str(tmp_path / 'cache.zec'), request.param, forker],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        with process:
            try:
                out, err = process.communicate(timeout=60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # children, if one hangs
        assert (process.returncode, err) == (0, '')
        return out.split('\n')[:-1]
    return run


by_python = pytest.mark.parametrize('forker', ['python'], indirect=True)
by_c = pytest.mark.parametrize('forker', ['C'], indirect=True)


def test_child_and_parent_go_on_side_by_side(script):
    """N10: each has its own connection; both commit, both see what the other did."""
    assert script('''
        db = open_db()
        add(db, 'parent')
        print(in_child(lambda: (add(db, 'child'), read(db, 'parent'))))
        storage_of(db).ping()       # what the child committed has been told now
        add(db, 'parent')
        print(read(db, 'parent'), read(db, 'child'))
        db.close()
    ''') == ['(None, 1)', '2 1']


def test_the_parents_connection_is_not_touched(script):
    """N10: no byte, no shutdown: the parent's link is the same before and after, and so is its cache file.
    """
    assert script('''
        db = open_db()
        storage = storage_of(db)
        link = storage._manager.ready
        def use_and_close():
            add(db, 'child')
            old = 'not connected'
            try:
                link.channel.call('ping', ())
            except ClientDisconnected as error:
                old = 'forked' in str(error)
            db.close()
            return old
        print(in_child(use_and_close))
        storage.ping()
        print(storage._manager.ready is link, link.channel.closed)
        try:
            ClientStorage(address, cache=cache)
        except Exception as error:
            print(type(error).__name__)  # the file is locked by the parent still
        db.close()
        ClientStorage(address, cache=cache).close()
    ''') == ['True', 'True False', 'CacheLocked']


def test_what_open_connections_know_is_brought_up_to_date_in_the_child(script):
    """Objects in the caches of connections that the child inherits are invalidated by what came since."""
    assert script('''
        db, other = open_db(), ZODB.DB(ClientStorage(address))
        add(other, 'x')
        storage_of(db).ping()
        connection = db.open()
        print(connection.root()['x'])
        connection.close()
        reader, writer = os.pipe()
        def late():
            os.read(reader, 1)      # after the parent's other storage has committed
            return read(db, 'x')
        said, say = os.pipe()
        if not fork():
            os.write(say, repr(late()).encode())
            os._exit(0)
        add(other, 'x')
        os.write(writer, b'!')
        os.wait()
        print(os.read(said, 99).decode())
        db.close(); other.close()
    ''') == ['1', '2']


def test_a_transaction_under_way_is_the_parents(script):
    """N10: the child cannot finish or abort it; the parent can."""
    assert script('''
        db = open_db()
        connection = db.open()
        connection.root()['x'] = 1
        storage = connection._storage
        manager = transaction.get()
        storage.tpc_begin(manager)
        def meddle():
            try:
                storage.tpc_vote(manager)
            except Exception as error:
                storage.tpc_abort(manager)
                return type(error).__name__
        print(in_child(meddle))
        storage.tpc_vote(manager)
        storage.tpc_finish(manager)
        transaction.abort()
        connection.close()
        db.close()
    ''') == ["'StorageTransactionError'"]


def test_a_child_that_does_not_use_it_does_nothing(script):
    """N10: no thread and no connection is made before the first use."""
    assert script('''
        db = open_db()
        print(in_child(lambda: len(os.listdir('/proc/self/task'))))
        db.close()
    ''') == ['1']


@by_python
def test_workers_of_multiprocessing(script):
    """N10: a pool of forked workers commits through the storage that they inherit."""
    assert script('''
        db = open_db()
        def work(number):
            for _ in range(5):
                add(db, f'worker {number}')
        context = multiprocessing.get_context('fork')
        workers = [context.Process(target=work, args=(number,)) for number in range(4)]
        from ZODB.POSException import ConflictError
        def add(db, key, simple=add):
            while True:
                try:
                    return simple(db, key)
                except ConflictError:
                    pass
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print([worker.exitcode for worker in workers])
        storage_of(db).ping()
        print([read(db, f'worker {number}') for number in range(4)])
        db.close()
    ''') == ['[0, 0, 0, 0]', '[5, 5, 5, 5]']


@by_python
def test_a_fork_while_others_are_at_work(script):
    """N10: other threads hold locks and the reader's role at the moment of the fork; never a hang."""
    assert script('''
        db = open_db()
        add(db, 'x')
        stop = []
        storage = storage_of(db)
        def load():
            while not stop:
                storage._loader.load(bytes(8), b'\\x7f' * 8)
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        def child():
            return len(storage.loadBefore(bytes(8), b'\\x7f' * 8))
        print({in_child(child) for _ in range(20)})
        stop.append(True)
        for thread in threads:
            thread.join()
        db.close()
    ''') == ["{'3'}"]


def test_a_server_that_preloads_its_application(script):
    """N10: as gunicorn --preload: the master opens the database, answers nothing, and its workers live on
    when it is gone."""
    assert script('''
        db = open_db()
        add(db, 'x')
        reader, writer = os.pipe()
        again, go = os.pipe()
        for number in range(2):
            if not fork():
                os.read(again, 1)
                connection = db.open()
                said = connection.root()['x']
                connection.close()
                os.write(writer, b'%d' % said)
                db.close()
                sys.stdout.flush()
                os._exit(0)
        db.close()                 # the master's connection ends; the workers' do not
        os.write(go, b'!!')
        for _ in range(2):
            os.wait()
        print(os.read(reader, 10))
    ''') == ["b'11'"]


def test_both_read_at_the_same_time_and_each_gets_what_it_asked_for(script):
    """N10: from the server, and from a cache in which the parent writes over what the child knew."""
    assert script('''
        storage = ClientStorage(address, cache=cache, cache_size=300_000, io_thread=io_thread,
                                wait_timeout=20)
        with ZODB.DB(ClientStorage(address)).transaction() as connection:
            for number in range(1000):
                connection.root()[str(number)] = PersistentMapping({'me': f'<<{number}>>' + 'x' * 500})
            connection.add(connection.root())
            connection.transaction_manager.commit()
            oids = [connection.root()[str(number)]._p_oid for number in range(1000)]
        def wrong(numbers):
            return [number for number in numbers
                    if f'<<{number}>>'.encode() not in storage.loadBefore(oids[number], b'\\x7f' * 8)[0]]
        print(wrong(range(300)))
        reader, writer = os.pipe()
        if not fork():
            said = [*wrong(range(300)), *wrong(range(999, -1, -1))]
            os.write(writer, repr(said).encode())
            os._exit(0)
        print(wrong(range(1000)), wrong(range(1000)))
        os.wait()
        print(os.read(reader, 1000).decode())
        storage.close()
    ''') == ['[]', '[] []', '[]']


def test_several_threads_of_the_child_come_at_once(script):
    """N10: all of them use one connection, the child's."""
    assert script('''
        db = open_db()
        add(db, 'x')
        storage = storage_of(db)
        def child():
            start, said = threading.Barrier(8), []
            def work():
                start.wait()
                said.append((len(storage.loadBefore(bytes(8), b'\\x7f' * 8)), id(storage._manager)))
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return len(said), len(set(said))
        print(in_child(child))
        storage.ping()
        db.close()
    ''') == ['(8, 1)']


def test_what_holds_the_parents_connection_gets_an_error_in_the_child(script):
    """N10: an iterator does not take the parent's replies; neither do a prefetch and a channel."""
    assert script('''
        db = open_db()
        add(db, 'x'); add(db, 'x')
        storage = storage_of(db)
        iterator = storage.iterator()
        channel = storage._manager.ready.channel
        def tried(function):
            try:
                function()
            except ClientDisconnected as error:
                return 'forked' in str(error)
        def child():
            return [tried(function) for function in [
                lambda: next(iterator), lambda: channel.send('iterator_gc', ([1],), flush=True),
                lambda: channel.call('ping', ()), lambda: channel.load(bytes(8), b'x' * 8, None),
                lambda: channel.call_async('ping', (), None), lambda: channel.send_loads([b'x'])]]
        print(in_child(child))
        def close_it():
            channel.abort(ValueError('by the child'))
            channel.send_async(b'x')
        print(in_child(close_it))
        print(len(list(iterator)))
        print(storage._manager.ready.channel is channel, channel.fate)
        db.close()
    ''') == [str([True] * 6), 'None', '3', 'True None']


def test_the_end_of_a_child_does_not_end_the_parents_connection(script):
    """N10: neither by closing what it never used, nor by the end of the interpreter."""
    assert script('''
        db = open_db()
        add(db, 'x')
        link = storage_of(db)._manager.ready
        print(in_child(db.close))
        print(in_child(atexit._run_exitfuncs))
        import zeo_clone.loop
        print(in_child(zeo_clone.loop.close_application_loop))
        storage_of(db).ping()
        print(storage_of(db)._manager.ready is link, link.channel.closed)
        db.close()
    ''') == ['None', 'None', 'None', 'True False']


def test_a_storage_opened_in_the_child_before_the_inherited_one_is_used(script):
    """N10: it does not live on the parent's loop."""
    assert script('''
        db = open_db()
        add(db, 'x')
        def child():
            other = ZODB.DB(ClientStorage(address, io_thread=io_thread, wait_timeout=20))
            said = read(other, 'x'), read(db, 'x')
            add(other, 'y')
            storage_of(db).ping()
            said = *said, read(db, 'y')
            other.close()
            return *said, read(db, 'x')
        print(in_child(child))
        storage_of(db).ping()
        print(read(db, 'y'))
        db.close()
    ''') == ['(1, 1, 1, 1)', '1']


def test_the_applications_loop_is_the_childs(script):
    """N10: turning it there takes no event from the parent."""
    assert script('''
        import zeo_clone.loop
        db = open_db()
        add(db, 'x')
        def child():
            zeo_clone.loop.poll()
            found = read(db, 'x')
            zeo_clone.loop.poll()
            return found
        print(in_child(child), in_child(child))
        storage_of(db).ping()
        print(read(db, 'x'))
        db.close()
    ''') == ['1 1', '1']


def test_children_of_children(script):
    """N10: each has its own."""
    assert script('''
        db = open_db()
        add(db, 'x')
        def child():
            return read(db, 'x'), in_child(lambda: (read(db, 'x'), in_child(grandchild))), read(db, 'x')
        def grandchild():
            return read(db, 'x')
        print(in_child(child))
        storage_of(db).ping()
        db.close()
    ''') == [repr((1, repr((1, '1')), 1))]


@by_c
def test_a_fork_while_a_thread_waits_for_the_interpreter(script):
    """N10: the child has no such thread, but its interpreter would wait for it; never a hang."""
    assert script('''
        import time
        db = open_db()
        add(db, 'x')
        sys.setswitchinterval(60)
        wake = threading.Lock()
        wake.acquire()
        thread = threading.Thread(target=wake.acquire)
        thread.start()
        def child():
            sys.setswitchinterval(0.005)
            for _ in range(5):
                add(db, 'x')
            return read(db, 'x')
        reader, writer = os.pipe()
        fork = ctypes.PyDLL(None).fork
        wake.release()
        until = time.monotonic() + 0.01
        while time.monotonic() < until:  # the thread comes as far as the interpreter, which is ours
            pass
        if not fork():
            os.write(writer, repr(child()).encode())
            os._exit(0)
        thread.join()
        os.wait()
        print(os.read(reader, 99).decode())
        db.close()
    ''') == ['6']


@by_c
def test_the_hooks_of_others_run_once_in_the_child(script):
    """N10: what Python does after a fork of its own is done, once."""
    assert script('''
        ran = []
        os.register_at_fork(before=lambda: ran.append('before'), after_in_child=lambda: ran.append('child'))
        db = open_db()
        add(db, 'x')
        def child():
            return read(db, 'x'), read(db, 'x'), ran, threading.active_count() - io_thread
        print(in_child(child), ran)
        db.close()
    ''') == ["(1, 1, ['child'], 1) []"]


def test_a_hook_that_uses_the_storage_before_ours_has_run(script):
    """N10: it finds the child's parts, and all hooks run once."""
    assert script('''
        db = open_db()
        add(db, 'x')
        ran = []
        early.append(lambda: ran.append(read(db, 'x')))
        os.register_at_fork(after_in_child=lambda: ran.append('late'))
        print(in_child(lambda: (read(db, 'x'), ran)), ran)
        db.close()
    ''') == ["(1, [1, 'late']) []"]


def test_each_world_notices_a_fork(script):
    """N10: also one that stands for a process of its own."""
    assert script('''
        from zeo_clone.client.world import World
        from zeo_clone.loop.runtime import Runtime
        world = World(Runtime())
        db = ZODB.DB(ClientStorage(address, cache=cache, io_thread=io_thread, world=world))
        link = storage_of(db)._manager.ready
        print(in_child(lambda: (add(db, 'child'), storage_of(db)._manager.ready is link)))
        storage_of(db).ping()
        print(read(db, 'child'), storage_of(db)._manager.ready is link)
        world.close()
        print(link.channel.closed)
    ''') == ['(None, False)', '1 True', 'True']
