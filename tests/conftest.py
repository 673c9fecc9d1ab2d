"""Fixtures for all rooms: servers in this process and in others, clients, and a look for leaks.

Every server listens at a port that the system chose.  What a fixture opened it closes.  A test that
leaves a child process or a thread that is not a daemon behind fails.
"""
from __future__ import annotations

from contextlib import ExitStack

import hypothesis
import pytest
from ZODB.MappingStorage import MappingStorage

from tests.support import inside, spawner
from tests.support.console_process import ConsolePool
from tests.support.leaks import Watch
from tests.support.peer_env import peer_python as find_peer_python
from tests.support.server_process import ANY_PORT, PeerServer, ServerProcess

#: No test depends on how fast the machine is.
hypothesis.settings.register_profile('untimed', deadline=None,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('untimed')


def pytest_collection_modifyitems(config, items):
    """Begin with what takes long where several workers share the tests, so that none ends with it alone."""
    if hasattr(config, 'workerinput'):
        items.sort(key=lambda item: item.get_closest_marker('long') is None)


@pytest.fixture(scope='session', autouse=True)
def _nothing_left_at_the_end():
    watch = Watch()
    yield
    complaint = watch.complaint()
    spawner.close()
    assert not complaint, f'left running by the test session:\n{complaint}'


@pytest.fixture(scope='session')
def _console_pool(_nothing_left_at_the_end):
    pool = ConsolePool()
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def _nothing_left(_console_pool):
    watch = Watch()
    yield
    complaint = watch.complaint(permitted=_console_pool.pids())
    assert not complaint, f'left running by this test:\n{complaint}'


@pytest.fixture
def new_server():
    """Start servers in this process, loops in threads: ``new_server(storages=None, **options)``.

    `storages` is ``{id: storage}``, by default one MappingStorage named 1; `options` are those of
    StorageServer.  Returns the StorageServer; connect to its ``addr``.
    """
    from zeo_clone.StorageServer import StorageServer
    started = []

    def start(storages=None, addr=ANY_PORT, **options):
        storages = {'1': MappingStorage()} if storages is None else storages
        server = StorageServer(addr, storages, **options)
        started.append((server, storages))
        server.start_thread()
        return server

    yield start
    for server, storages in reversed(started):
        server.close()
        for storage in storages.values():
            storage.close()


@pytest.fixture
def server(new_server):
    """A StorageServer over one MappingStorage named 1, in this process."""
    return new_server()


@pytest.fixture
def server_process(tmp_path):
    """A running ServerProcess over a FileStorage in `tmp_path`."""
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        yield process


@pytest.fixture
def peer_server(tmp_path):
    """A running PeerServer, real ZEO, over a FileStorage in `tmp_path`."""
    with PeerServer([{'kind': 'file', 'path': str(tmp_path / 'Peer.fs')}]) as process:
        yield process


@pytest.fixture
def client():
    """Make ClientStorages that are closed after the test: ``client(address, **options)``."""
    from zeo_clone.ClientStorage import ClientStorage
    opened = []

    def connect(address, *arguments, **options):
        storage = ClientStorage(address, *arguments, **options)
        opened.append(storage)
        return storage

    yield connect
    for storage in reversed(opened):
        assert inside.manager(storage).places.complaints() == []
        storage.close()


@pytest.fixture(scope='session')
def peer_python():
    """The Python interpreter of the environment with real ZEO."""
    return find_peer_python()


@pytest.fixture
def console(_console_pool):
    """Python prompts in other processes: ``console()``, or ``console('ZEO')`` for real ZEO."""
    with ExitStack() as taken:

        def take(package='zeo_clone'):
            prompt = _console_pool.take(package)
            taken.callback(_console_pool.give_back, prompt)
            return prompt

        yield take
