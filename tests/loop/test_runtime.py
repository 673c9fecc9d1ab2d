from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import socket
import sys

import pytest

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
