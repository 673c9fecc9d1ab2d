from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import resource
import socket
import stat
import subprocess
import sys
import textwrap

import pytest
import zc.lockfile

from tests.support.json_process import child_environment
from zeo_clone.loop import runtime as runtime_module
from zeo_clone.loop.forks import ProcessLock
from zeo_clone.loop.runtime import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IN_PROGRESS,
    REAL,
    Endpoint,
    ProcessMark,
    Runtime,
)

ANYWHERE = Endpoint(AF_INET, ('127.0.0.1', 0))


@pytest.mark.parametrize(('endpoint', 'text'), [
    (Endpoint(AF_INET, ('127.0.0.1', 9100)), '127.0.0.1:9100'),
    (Endpoint(AF_INET6, ('::1', 9100, 0, 0)), '[::1]:9100'),
    (Endpoint(AF_UNIX, '/run/zeo.sock'), '/run/zeo.sock'),
])
def test_endpoint_reads_like_an_address(endpoint, text):
    assert str(endpoint) == text


def test_resolving_gives_each_address_once():
    assert REAL.resolve('127.0.0.1', 9100) == [Endpoint(AF_INET, ('127.0.0.1', 9100))]
    passive = REAL.resolve(None, 9100, passive=True)
    assert len(passive) == len(set(passive)) >= 1


def test_sockets_do_not_block_and_do_not_delay_small_packets():
    with REAL.listen(ANYWHERE) as listener, REAL.socket(AF_INET) as caller:
        assert not listener.getblocking()
        assert not caller.getblocking()
        assert caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        error = caller.connect_ex(listener.getsockname())
        assert error == 0 or error in IN_PROGRESS
        assert REAL.wait(listener.fileno(), True, False, None)
        guest, _ = listener.accept()
        with guest:
            REAL.tune(guest)
            assert guest.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert guest.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert REAL.wait(caller.fileno(), False, True, None)
        assert REAL.connect_error(caller) == 0


def test_connect_that_was_refused_leaves_its_error():
    with REAL.listen(ANYWHERE) as listener:
        address = listener.getsockname()
    with REAL.socket(AF_INET) as caller:
        error = caller.connect_ex(address)
        if error in IN_PROGRESS:
            REAL.wait(caller.fileno(), False, True, None)
            error = REAL.connect_error(caller)
        assert error == errno.ECONNREFUSED


def test_port_in_use_is_an_error_and_leaves_no_socket():
    with REAL.listen(ANYWHERE) as listener, pytest.raises(OSError, match='in use'):
        REAL.listen(Endpoint(AF_INET, listener.getsockname()))


def test_wait_says_whether_anything_came(pair):
    ours, theirs = pair
    assert not REAL.wait(ours.fileno(), True, False, 0)
    theirs.send(b'x')
    assert REAL.wait(ours.fileno(), True, False, None)


def test_temporary_file_has_no_name_left(tmp_path):
    with REAL.temporary_file(str(tmp_path)) as file:
        file.write(b'abc')
        file.seek(0)
        assert file.read() == b'abc'
        assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def in_child(function):
    """What `function` returns in a child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, repr(function()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, 'rb') as file:
        yield file.read().decode()
    os.waitpid(pid, 0)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of fork() beside threads, since Python 3.12
@pytest.mark.parametrize('make', [REAL.home, ProcessMark], ids=['wiped', 'by number'])
def test_a_mark_is_true_in_its_own_process_only(make):
    """N10."""
    mark = make()
    assert mark[0]
    with in_child(lambda: (bool(mark[0]), bool(make()[0]))) as said:
        assert said == '(False, True)'
    assert mark[0]


def test_a_mark_is_memory_where_the_system_can_wipe_it(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert type(REAL.home()) is ProcessMark


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_lock_that_is_held_at_a_fork_is_free_in_the_child():
    """N10."""
    lock = ProcessLock(REAL)

    def child():
        with lock, lock:
            return 'in'

    with lock, in_child(child) as said:
        assert said == "'in'"


# ---- what the system allows ---------------------------------------------------------------------

def test_memory_is_that_of_the_machine_or_less():
    physical = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    assert 0 < REAL.memory_size() <= physical


@pytest.mark.parametrize(('groups', 'files', 'size'), [
    ('0::/\n', {'/memory.max': '1000\n'}, 1000),
    ('0::/a/b\n', {'a/memory.max': '2000\n', 'a/b/memory.max': 'max\n'}, 2000),
    ('5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n', {'memory/x/memory.limit_in_bytes': '3000'}, 3000),
    ('4:memory:/docker/1\n', {'memory//memory.limit_in_bytes': '4000'}, 4000),
    (None, {}, None),
])
def test_memory_of_a_container_is_what_its_control_group_has(groups, files, size):
    """S12: in both forms, at any level, whether or not the process sees the levels above."""
    there = {f'/sys/fs/cgroup/{path}': text for path, text in files.items()}
    if groups is not None:
        there['/proc/self/cgroup'] = groups

    class Contained(Runtime):
        def open(self, path, mode):
            if path not in there:
                raise FileNotFoundError(path)
            return io.BytesIO(there[path].encode())

    physical = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    assert Contained().memory_size() == (size or physical)


def test_the_next_descriptor_is_the_one_that_is_opened_next():
    number = REAL.next_descriptor()
    with open(os.devnull, 'rb') as file:
        assert file.fileno() == number
        assert REAL.next_descriptor() > number


def test_the_limit_of_descriptors_is_that_of_the_process():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert REAL.descriptor_limits() == (soft, hard)
    REAL.raise_descriptor_limit(soft)
    assert REAL.descriptor_limits() == (soft, hard)
    with pytest.raises((OSError, ValueError)):
        REAL.raise_descriptor_limit(-5)


# ---- sockets ------------------------------------------------------------------------------------

def test_an_address_in_numbers_asks_nobody():
    """N3: a name does not."""
    assert REAL.in_numbers('127.0.0.1', 9100) == [Endpoint(AF_INET, ('127.0.0.1', 9100))]
    assert REAL.in_numbers('name.example', 9100) == []
    assert REAL.in_numbers('a' * 70 + '.example', 9100) == []  # no name at all


def test_a_unix_socket_has_its_permissions_before_anybody_can_connect(tmp_path):
    """S8."""
    path = str(tmp_path / 'socket')
    with REAL.listen(Endpoint(AF_UNIX, path), None, mode=0o600), REAL.socket(AF_UNIX) as caller:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with pytest.raises(ConnectionRefusedError):
            caller.connect(path)


@pytest.mark.skipif(not hasattr(socket, 'AF_INET6'), reason='there is no IPv6')
def test_ipv6_leaves_ipv4_to_a_socket_of_its_own():
    """N3: "*" is both, with one port."""
    try:
        six = REAL.listen(Endpoint(AF_INET6, ('::', 0, 0, 0)))
    except OSError:
        pytest.skip('there is no IPv6')
    with six, REAL.listen(Endpoint(AF_INET, ('0.0.0.0', six.getsockname()[1]))) as four:
        assert four.getsockname()[1] == six.getsockname()[1]


def test_who_is_at_the_other_end_of_a_unix_socket_is_known(pair, monkeypatch):
    """S8: of another user's process, of a TCP connection and of other systems it is not believed."""
    assert REAL.peer_credentials(pair[0]) == (os.getpid(), os.geteuid())
    assert REAL.is_own_user(pair[0])
    with REAL.listen(ANYWHERE) as listener:
        assert not REAL.is_own_user(listener)

    class Other(Runtime):
        def peer_credentials(self, sock):
            return os.getpid(), os.geteuid() + 1

    assert not Other().is_own_user(pair[0])
    monkeypatch.delattr(socket, 'SO_PEERCRED')
    assert REAL.peer_credentials(pair[0]) is None
    assert not REAL.is_own_user(pair[0])


# ---- processes ----------------------------------------------------------------------------------

def test_what_is_to_be_done_at_the_end_of_the_process_is_done():
    said = subprocess.run([sys.executable, '-c', textwrap.dedent("""
        from zeo_clone.loop.runtime import REAL
        REAL.at_exit(lambda: print('last'))
        print('first')
    """)], env=child_environment(), capture_output=True, text=True, check=True).stdout
    assert said.split() == ['first', 'last']


class Python:
    """Of the interpreter: what it does after a fork, and the lock of its imports."""

    def __init__(self, held):
        self.held = held
        self.done = []

    def lock_held(self):
        return self.held

    def acquire_lock(self):
        self.done.append('lock')

    def PyOS_AfterFork_Child(self):
        self.done.append('finish')


@pytest.mark.parametrize(('version', 'held', 'threads', 'done'), [
    ((3, 12), False, ['1'], ['finish']),
    ((3, 13), False, ['1'], ['lock', 'finish']),
    ((3, 13), True, ['1'], []),
    ((3, 13), False, ['1', '2'], []),
    ((3, 13), False, None, []),
])
def test_a_fork_by_a_program_in_c_is_finished_where_that_can_be(monkeypatch, version, held, threads, done):
    """N10: not amid an import, nor beside other threads."""
    python = Python(held)

    class Process(Runtime):
        def listdir(self, path):
            if threads is None:
                raise FileNotFoundError(path)
            return threads

    with monkeypatch.context() as patch:
        patch.setattr(sys, 'version_info', version)
        patch.setattr(runtime_module, '_imp', python)
        patch.setattr(ctypes, 'pythonapi', python)
        Process().finish_fork()
    assert python.done == done


def test_processors_are_those_that_the_process_may_use(monkeypatch):
    assert 1 <= runtime_module.usable_processors() <= os.cpu_count()
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    assert runtime_module.usable_processors() == os.cpu_count()


# ---- files --------------------------------------------------------------------------------------

def test_a_new_file_is_for_this_user_only_and_never_another_one_s(tmp_path):
    path = str(tmp_path / 'new')
    REAL.create(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(FileExistsError):
        REAL.create(path)


def test_what_is_at_a_path_is_told_without_errors(tmp_path):
    (tmp_path / 'file').write_bytes(b'12345')
    (tmp_path / 'link').symlink_to(tmp_path)
    assert REAL.size(str(tmp_path / 'file')) == 5
    names = [str(tmp_path / name) for name in ('file', 'link', 'none', 'a\0b')]
    assert [REAL.exists(name) for name in names] == [True, True, False, False]
    assert [REAL.is_directory(name) for name in names] == [False, True, False, False]
    assert sorted(entry.name for entry in REAL.entries(str(tmp_path))) == ['file', 'link']
    assert REAL.environment('NO_SUCH_VARIABLE_IS_SET') == ''
    assert REAL.absolute_path('a') == os.path.join(os.getcwd(), 'a')


@pytest.mark.parametrize('sync', ['sync_file', 'sync_directory'])
@pytest.mark.parametrize(('number', 'fatal'), [
    (None, ()), (errno.EIO, ('sync_file', 'sync_directory')), (errno.EINVAL, ('sync_file',))])
def test_a_sync_that_fails_is_told_unless_the_file_system_knows_none(tmp_path, sync, number, fatal):
    """D3: only of directories, and whatever happens nothing stays open."""
    synced, before = [], REAL.next_descriptor()

    class Disk(Runtime):
        def fsync(self, fd):
            synced.append(os.fstat(fd).st_ino)
            if number is not None:
                raise OSError(number, os.strerror(number))

    path = tmp_path if sync == 'sync_directory' else tmp_path / 'file'
    if sync == 'sync_file':
        path.touch()
    with pytest.raises(OSError) if sync in fatal else contextlib.nullcontext():
        getattr(Disk(), sync)(str(path))
    assert synced == [os.stat(path).st_ino]
    assert REAL.next_descriptor() == before


def test_a_file_that_may_only_be_read_can_be_locked(tmp_path, monkeypatch):
    """B13: another user's is enough.  Without one the right to make it is missing."""
    real, path = os.open, str(tmp_path / 'lock')

    def no_right(path, flags, *mode):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, 'not yours', path)
        return real(path, flags, *mode)

    monkeypatch.setattr(os, 'open', no_right)
    with pytest.raises(PermissionError, match='not yours'):
        REAL.open_to_lock(path)
    with open(path, 'wb'):  # not by os.open
        pass
    first, second = REAL.open_to_lock(path), REAL.open_to_lock(path)
    assert REAL.flock(first)
    assert not REAL.flock(second, wait=False)
    REAL.close_fd(first)
    assert REAL.flock(second, shared=True)
    REAL.close_fd(second)


def test_rights_are_those_of_the_effective_user(tmp_path):
    assert REAL.may_write_in(str(tmp_path))
    assert not REAL.may_write_in(str(tmp_path / 'none'))
    user, groups = REAL.credentials()
    assert user == os.geteuid()
    assert os.getegid() in groups


def test_memory_that_cannot_be_had_is_none():
    with REAL.memory(1 << 20) as memory:
        assert memory[:4] == bytes(4)
    assert REAL.memory(1 << 62) is None


def test_a_copy_of_a_file_has_another_identity(tmp_path, monkeypatch):
    """K11."""
    with open(tmp_path / 'one', 'wb') as one, open(tmp_path / 'two', 'wb') as two:
        first = REAL.file_identity(one.fileno())
        assert len(first) == 16
        assert first == REAL.file_identity(one.fileno()) != REAL.file_identity(two.fileno())
        assert REAL.file_identity(-1) == b''


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_child_that_drops_a_lock_leaves_it_to_its_parent(tmp_path):
    """N10."""
    path = str(tmp_path / 'lock')
    lock = REAL.lock_file(path)

    def child():
        REAL.forsake_lock(lock)
        return 'dropped'

    try:
        with in_child(child) as said:
            assert said == "'dropped'"
        with pytest.raises(zc.lockfile.LockError):
            REAL.lock_file(path)
    finally:
        lock.close()
    REAL.lock_file(path).close()
    again = REAL.lock_file(path)
    REAL.forsake_lock(again)  # as in a child: the descriptor has gone
    REAL.lock_file(path).close()
