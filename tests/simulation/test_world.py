"""The parts of the simulated world: do they behave as the real ones?"""
from __future__ import annotations

import builtins
import errno
import sys

import pytest
import ZODB.FileStorage
import ZODB.utils
from ZODB.blob import is_blob_record
from ZODB.DB import DB

from simulation.book import Book, Fate
from simulation.bound import FILE_STORAGE, System, bound
from simulation.dice import Dice
from simulation.disk import Disk
from simulation.faults import Faults
from simulation.kernel import Kernel
from simulation.machine import Machine
from simulation.network import Network
from simulation.operations import OPERATIONS, SPECIAL
from simulation.oracles import History, judge_attempts
from simulation.plan import ADDED, KINDS, NEEDS_FILE, OF_PACKER, draw
from simulation.records import BLOB, Cell, Content, decode, encode, encode_root, file_of, is_blob
from simulation.runtime import SimRuntime
from zeo_clone.loop.runtime import AF_INET, IN_PROGRESS, Runtime
from zeo_clone.server.backend.references import references

#: What a `SimRuntime` may leave as it is: it is made of what is replaced, or says the same everywhere.
INHERITED = {'exists', 'is_directory', 'size', 'touch'}


class Small:
    """Two machines and a process on each."""

    def __init__(self, seed=1, switchiness=0.2):
        self.kernel = Kernel(seed, switchiness)
        self.network = Network(self.kernel, Dice(seed, 'net'), (0.001, 0.01), 1000, 100)
        self.one, self.other = (
            Machine(self.kernel, self.network, name, address, Dice(seed, name))
            for name, address in (('one', '10.0.0.1'), ('other', '10.0.0.2')))
        self.left, self.right = self.one.start('left'), self.other.start('right')

    def run(self, *tasks, seconds=100.0):
        """Let functions run as tasks of the left process; what they return."""
        results = {}
        for number, task in enumerate(tasks):
            self.left.spawn(lambda task=task, number=number: results.update({number: task()}), str(number))
        self.kernel.run(lambda: len(results) == len(tasks) or bool(self.kernel.died), seconds)
        assert not self.kernel.died, self.kernel.died
        return [results.get(number) for number in range(len(tasks))]


@pytest.fixture
def small():
    world = Small()
    yield world
    world.kernel.end([task for process in (world.left, world.right) for task in process.tasks])


def test_nothing_of_the_real_runtime_is_left(small):
    """What is new in the seam has to be simulated, too."""
    runtime = SimRuntime(small.left)
    public = {name for name in vars(Runtime) if not name.startswith('_')}
    replaced = {name for name in public
                if name in vars(SimRuntime) or name in vars(runtime)}
    assert public - replaced == INHERITED


def test_time_passes_when_everybody_waits(small):
    def sleep():
        small.kernel.sleep(1000.0)
        return small.left.runtime.monotonic()

    woken, = small.run(sleep, seconds=2000.0)
    assert 1000.0 <= woken < 1001.0


@pytest.mark.parametrize('seed', range(5))
def test_a_lock_lets_one_in_at_a_time(seed):
    small = Small(seed, switchiness=1.0)
    lock, inside, most = small.left.runtime.lock(), [], []

    def work():
        for _ in range(20):
            with lock:
                inside.append(1)
                most.append(len(inside))
                small.kernel.switch()
                inside.pop()

    small.run(work, work, work)
    assert (len(most), max(most)) == (60, 1)


@pytest.mark.parametrize('seed', range(5))
def test_a_condition_loses_no_notice(seed):
    small = Small(seed, switchiness=1.0)
    change, queue = small.left.runtime.condition(), []

    def take():
        got = 0
        while got < 50:
            with change:
                while not queue:
                    change.wait()
                got += queue.pop()
        return got

    def give():
        for _ in range(50):
            with change:
                queue.append(1)
                change.notify()

    assert small.run(take, give)[0] == 50


def test_waits_end_in_time(small):
    runtime = small.left.runtime
    lock, event = runtime.lock(), runtime.event()
    lock.acquire()
    assert small.run(lambda: lock.acquire(timeout=5), lambda: event.wait(7)) == [False, False]
    assert 7 <= small.kernel.now < 8


def connect(small):
    """A connection from left to right: both ends."""
    listener = small.right.runtime.listen(small.left.runtime.in_numbers('10.0.0.2', 80)[0])
    sock = small.left.runtime.socket(AF_INET)
    assert sock.connect_ex(('10.0.0.2', 80)) in IN_PROGRESS
    small.kernel.run(lambda: bool(listener.ready()) and bool(sock.ready()), 10.0)
    assert sock.pending_error() == 0
    guest, _ = listener.accept()
    return sock, guest


def test_a_stream_keeps_order_and_has_limits(small):
    sock, guest = connect(small)
    sent = bytes(range(256)) * 8
    taken = sock.send(sent)
    assert 0 < taken <= 1000  # the window
    with pytest.raises(BlockingIOError):
        sock.send(b'more')
    got = b''
    while len(got) < taken:
        assert small.kernel.run(lambda: bool(guest.ready() & 1), 10.0)
        got += guest.recv(5000)
    assert got == sent[:taken]
    sock.close()
    assert small.kernel.run(lambda: bool(guest.ready() & 1), 10.0)
    assert guest.recv(10) == b''


def test_a_cut_holds_back_and_breaks_after_half_a_minute(small):
    sock, guest = connect(small)
    small.network.sever(small.one, small.other)
    sock.send(b'held back')
    small.kernel.run(lambda: False, 20.0)
    assert not guest.ready() & 1
    small.network.heal()
    assert small.kernel.run(lambda: bool(guest.ready() & 1), 1.0)
    assert guest.recv(100)[:1] == b'h'
    small.network.sever(small.one, small.other)
    assert small.kernel.run(lambda: bool(sock.ready() & 8), 60.0)
    with pytest.raises(OSError) as caught:
        sock.recv(1)
    assert caught.value.errno == errno.ETIMEDOUT


def test_nobody_listens(small):
    sock = small.left.runtime.socket(AF_INET)
    sock.connect_ex(('10.0.0.2', 81))
    assert small.kernel.run(lambda: bool(sock.ready()), 10.0)
    assert sock.pending_error() == errno.ECONNREFUSED


def test_who_was_not_accepted_is_closed_with_the_listener(small):
    listener = small.right.runtime.listen(small.left.runtime.in_numbers('10.0.0.2', 80)[0])
    sock = small.left.runtime.socket(AF_INET)
    sock.connect_ex(('10.0.0.2', 80))
    assert small.kernel.run(lambda: bool(listener.ready()) and bool(sock.ready()), 10.0)
    listener.close()
    assert small.right.fds == {0: None, 1: None, 2: None}
    small.kernel.run(lambda: bool(sock.ready() & 1), 10.0)
    assert sock.recv(1) == b''


def test_a_killed_process_closes_its_connections(small):
    sock, _ = connect(small)
    small.right.kill()
    assert small.kernel.run(lambda: bool(sock.ready() & 1), 1.0)
    assert sock.recv(1) == b''


def test_what_a_process_had_open_stays_so_while_its_child_lives(small):
    sock, _ = connect(small)
    child = small.right.fork()
    small.right.kill()
    small.kernel.run(lambda: False, 1.0)
    assert not sock.ready() & 1
    child.kill()
    assert small.kernel.run(lambda: bool(sock.ready() & 1), 1.0)
    assert sock.recv(1) == b''


# ---- disks --------------------------------------------------------------------------------------

@pytest.mark.parametrize('strict', [False, True])
def test_what_was_synced_survives_a_loss_of_power(strict):
    left = set()
    for seed in range(60):
        small = Small(seed)
        disk = small.one.disk = small.left.runtime._disk = Disk(Dice(seed), lambda: 0.0, strict)
        runtime = small.left.runtime
        runtime.mkdir('/d')
        disk.settle()

        def work(runtime=runtime):
            with runtime.open('/d/file', 'wb') as file:
                file.write(b'sure')
                file.flush()
                runtime.fsync(file.fileno())
                runtime.sync_directory('/d')
                file.write(b'perhaps')
                file.flush()
                runtime.rename('/d/file', '/d/other')

        small.run(work)
        small.one.lose_power()
        names = set(disk.find('/d').names)
        assert names in ({'file'}, {'other'}) or strict and names in (set(), {'file', 'other'})
        for name in names:
            data = bytes(disk.find(f'/d/{name}').data)
            assert data.startswith(b'sure')
            left.add((name, data))
    assert {name for name, _ in left} == {'file', 'other'}
    assert {b'sure', b'sureperhaps'} <= {data for _, data in left}


def test_a_sector_is_as_it_was_at_one_moment_and_a_file_grows_from_front_to_back():
    """Of writes into a sector the last is not there without the others; each sector is for itself."""
    writes = (0, b'aaaa'), (2, b'bb'), (512, b'c'), (1, b'd'), (1024, b'e' * 512), (1536, b'f')
    found = set()
    for seed in range(200):
        small = Small(seed)
        runtime = small.left.runtime

        def work(runtime=runtime):
            with runtime.open('/file', 'wb', 0) as file:
                file.write(b'.' * 1024)
                runtime.fsync(file.fileno())
                for at, data in writes:
                    file.seek(at)
                    file.write(data)

        small.run(work)
        small.one.lose_power()
        names = small.one.disk.find('/').names
        data = bytes(names['file'].data) if 'file' in names else b'.' * 1024
        found.add((data[:4], data[512:513], data[1024:].rstrip(b'\0')))
    assert {first for first, _, _ in found} == {b'....', b'aaaa', b'aabb', b'adbb'}
    assert {(first, second) for first, second, _ in found} > {(b'....', b'c'), (b'adbb', b'.')}
    assert {end for _, _, end in found} == {b'', b'e' * 512, b'e' * 512 + b'f'}


def test_a_full_disk_takes_what_fits(small):
    small.one.disk.capacity = 10

    def work():
        with small.left.runtime.open('/file', 'w+b', 0) as file:
            return file.write(b'12345678'), file.write(b'abcdef'), small.left.runtime.size('/file')

    assert small.run(work) == [(8, 2, 10)]


# ---- ZODB, and what is stored ---------------------------------------------------------------------

def test_zodb_is_bound_and_free_again(small):
    small.one.disk.make('/data', 0o040755)
    before = (vars(FILE_STORAGE).get('open'), FILE_STORAGE.os, ZODB.utils.Lock)

    def work():
        storage = ZODB.FileStorage.FileStorage('/data/Data.fs')
        storage.close()
        return sorted(small.one.disk.find('/data').names)

    with bound(small.kernel):
        names, = small.run(work)
    assert {'Data.fs', 'Data.fs.index'} <= set(names)
    assert (vars(FILE_STORAGE).get('open'), FILE_STORAGE.os, ZODB.utils.Lock) == before
    assert sys.modules['os'].open is not builtins.open


def test_records_say_what_they_were_made_of():
    content = Content(-7, 12, (1, 2, 3))
    assert decode(encode(content, 100)) == content
    root = encode_root(5, [bytes([0] * 7 + [number]) for number in (1, 2)])
    assert decode(root) == Content(0, 5)


def test_what_a_connection_writes_is_a_record_of_ours():
    """The oracles read what ZODB's own pickles have."""
    db = DB(None)
    with db.transaction() as connection:
        cell = connection.root()['cell'] = Cell(Content(3, 1, (4, 5)))
        cell.padding = 7
    with db.transaction() as connection:
        cell = connection.root()['cell']
        assert cell.content == Content(3, 1, (4, 5))
        record, _ = db.storage.load(cell._p_oid)
    assert decode(record) == Content(3, 1, (4, 5))
    assert not is_blob(record)
    db.close()


def test_records_of_blobs_say_what_is_in_their_files():
    record = encode(Content(25, 7), 10, BLOB)
    assert is_blob(record) and is_blob_record(record)
    assert file_of(decode(record)) == b'00000007, 00000007, 00000'


def test_a_pack_finds_what_the_root_refers_to():
    oids = [bytes([0] * 7 + [number]) for number in (1, 2)]
    assert list(references(encode_root(5, oids))) == oids


def test_each_kind_of_fault_can_happen():
    assert all(callable(getattr(Faults, f'_{kind}')) for kind in {**KINDS, **OF_PACKER, **ADDED})
    assert set(NEEDS_FILE) < set(KINDS)


@pytest.mark.parametrize(('restored', 'past', 'right'), [(0, 1, False), (1, 1, True), (1, 0, False)])
def test_refused_is_what_the_database_does_not_have_when_it_is_asked(restored, past, right):
    """C24: after a backup was restored it lacks what there is in a lost past, and nothing else."""
    book, tid = Book(), b'\0' * 7 + b'\1'
    book.restored = restored
    attempt = [book.new_attempt('client', ()) for _ in range(2)][1]
    book.settle(attempt, Fate.REFUSED)
    pasts = [History([], {}), History([], {})]
    pasts[past] = History([(tid, {tid: b''})], {tid: attempt.number})
    judge_attempts(book, pasts)
    assert bool(book.faults) is not right


def test_what_a_disk_has_can_be_removed_as_a_whole(small):
    """As ``shutil.rmtree``, which packs use for blobs."""
    with bound(small.kernel) as binding:
        def work():
            system = System(binding)
            system.makedirs('/a/b/c')
            small.left.runtime.open('/a/b/file', 'wb').close()
            system.remove_all('/a')
            return small.left.runtime.listdir('/')

        assert small.run(work) == [[]]


def test_operations_and_faults_can_be_left_out():
    wanted = {'operations': ('transfer', 'audit'), 'faults': {'reset': 1.0, 'jam': 1.0}}
    plan = draw('7', wanted, ('audit', 'jam'))
    assert (plan.operations, plan.faults) == (('transfer',), {'reset': 1.0})
    assert set(SPECIAL) < set(OPERATIONS)


def test_a_plan_follows_from_its_seed():
    assert draw('7') == draw('7') != draw('8')
    assert draw('7', {'clients': 9}).clients == 9
    assert {draw(str(seed)).storage for seed in range(30)} == {'file', 'mapping'}


def test_what_is_mounted_is_on_the_other_machine_and_goes_with_it(small):
    """As a network file system: errors while it is down, and then for what was open before."""
    def write():
        file = runtime.open('/shared/new', 'wb', 0)
        file.write(b'lost')
        runtime.rename('/own', '/elsewhere')
        with pytest.raises(OSError, match='cross-device'):
            runtime.rename('/elsewhere', '/shared/elsewhere')
        small.other.lose_power()
        assert not runtime.exists('/shared/new')
        small.other.boot()
        with pytest.raises(OSError, match='Input/output'):
            file.write(b'more')

    runtime = small.left.runtime
    for machine in small.one, small.other:
        machine.disk.make('/shared', 0o040755)
        machine.disk.settle()
    small.one.disk.make('/own', 0o100644)
    small.one.mount('/shared', small.other)
    small.run(write)
