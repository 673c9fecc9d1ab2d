"""N10: a child of fork(), in short; with programs in C, locks and thousands of forks: `tests/connections`."""
from __future__ import annotations

import pytest
from ZODB.utils import maxtid

from tests.client.fake_server import p64
from tests.client.test_blobs import DATA, TID, send_blob
from tests.client.test_order import Wrapper, serve_one
from tests.support import inside
from tests.support.elsewhere import Elsewhere
from tests.support.forks import told_by_child
from zeo_clone.client.world import World
from zeo_clone.loop.runtime import Runtime

OID = p64(7)


@pytest.mark.parametrize('io_thread', [True, False])
def test_a_child_begins_anew_and_its_parent_notices_nothing(fake, opened, tmp_path, io_thread):
    """N10: its own connection, an empty cache as of what the parent had seen, the same files of blobs."""
    fake.answers['sendBlob'] = send_blob
    serve_one(fake)
    storage = opened(io_thread=io_thread, blob_dir=str(tmp_path / 'blobs'))
    Wrapper(storage)
    storage.loadBefore(OID, maxtid)
    path = storage.loadBlob(OID, TID)
    token = inside.engine(storage).identity.token

    def child():
        assert inside.manager(storage).asleep
        assert storage.lastTransaction() == p64(1)
        assert inside.engine(storage).identity.token != token
        storage.sync()
        assert storage.loadBefore(OID, maxtid) == (b'old', p64(1), None)
        assert storage.loadBlob(OID, TID) == path
        storage.close()
        return 'fine'

    assert told_by_child(child) == 'fine'
    assert fake.called('loadBefore') == 2
    assert fake.called('sendBlob') == 1
    assert len(fake.registered) == 2
    assert storage.loadBefore(OID, maxtid) == (b'old', p64(1), None)
    storage.ping()
    assert (len(fake.registered), fake.called('loadBefore')) == (2, 2)
    with open(path, 'rb') as file:
        assert file.read() == DATA


class Few(Runtime):
    """There are as many threads as there can be, or not."""

    full = False

    def start_thread(self, target, name, *, daemon=True):
        if self.full:
            raise RuntimeError("can't start new thread")
        return super().start_thread(target, name, daemon=daemon)


def test_a_child_without_a_thread_at_first_tries_again(fake, opened):
    """N10: an error at once; not that there is no server, for ever."""
    runtime = Few()
    world = World(runtime)
    storage = opened(world=world)

    def child():
        runtime.full = True
        with pytest.raises(RuntimeError, match="can't start new thread"):
            storage.ping()
        runtime.full = False
        storage.ping()
        return 'fine'

    assert told_by_child(child) == 'fine'
    world.close()


class Strange(Elsewhere):
    """Not in its process any more, as soon as a test says so, and told by nobody."""

    def __init__(self, directory):
        super().__init__(directory)
        self.homes = []
        self.finished = 0

    def home(self):
        self.homes.append([True])
        return self.homes[-1]

    def finish_fork(self):
        self.finished += 1


def test_a_fork_of_which_nobody_has_told_is_noticed_at_the_first_use(fake, opened, tmp_path):
    """N10: by a program in C.  What Python does after a fork is done then; once for all storages."""
    serve_one(fake)
    runtime = Strange(tmp_path)
    world = World(runtime)
    first, second = [opened(world=world, io_thread=False) for _ in range(2)]
    engines = [inside.engine(storage) for storage in (first, second)]
    before = [*runtime.homes]
    for home in before:
        home[0] = False
    assert first.load_at_once(OID, maxtid) is None
    assert runtime.finished == 1
    assert second.loadBefore(OID, maxtid) == (b'old', p64(1), None)
    assert runtime.finished == 1
    for storage in first, second:
        assert inside.engine(storage) not in engines
    first.ping()
    world.close()
