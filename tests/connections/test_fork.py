"""N10: what happens to storages when their process forks."""
from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

START = '''
import multiprocessing, os, sys, threading, warnings
warnings.filterwarnings('ignore', category=DeprecationWarning)  # of fork() itself, since Python 3.12
import transaction, ZODB
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

def in_child(function):
    """What `function` says in a child of fork()."""
    reader, writer = os.pipe()
    pid = os.fork()
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


@pytest.fixture(params=['thread', 'none'])
def script(server_process, tmp_path, request):
    """Run a script in a process of its own; what it printed."""
    def run(source):
        done = subprocess.run(
            [sys.executable, '-W', 'error', '-c', START + textwrap.dedent(source),
             str(server_process.address[1]), str(tmp_path / 'cache.zec'), request.param],
            capture_output=True, text=True, timeout=60, cwd=os.getcwd())
        assert (done.returncode, done.stderr) == (0, '')
        return done.stdout.split('\n')[:-1]
    return run


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
        pid_says = []
        thread = threading.Thread(target=lambda: pid_says.append(in_child(late)))
        thread.start()
        add(other, 'x')
        os.write(writer, b'!')
        thread.join()
        print(pid_says[0])
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
        print(in_child(lambda: [thread.name for thread in threading.enumerate()]))
        db.close()
    ''') == ["['MainThread']"]


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
            if not os.fork():
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
