"""How large a storage is and what room its disks have (D1)."""
from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import namedtuple
from functools import partial

import pytest
from ZODB.blob import Blob, BlobStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import zeo_clone
from tests.server.desk import ClockRuntime, HandLoop, InlineWorkers
from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.sizes import COUNT_INTERVAL_S, INTERVAL_S, PACKING_INTERVAL_S, Sizes

Usage = namedtuple('Usage', 'total used free')
GB = 10 ** 9


class Disks(ClockRuntime):
    """Disks of known sizes: whatever lies below `other` is on one of its own."""

    other = '/nowhere'

    def disk_usage(self, path):
        return Usage(100 * GB, 99 * GB, GB) if path.startswith(self.other) else Usage(10 * GB, 0, 7 * GB)

    def stat(self, path):
        Status = namedtuple('Status', 'st_dev st_size')
        return Status(2 if path.startswith(self.other) else 1, os.stat(path).st_size)


@pytest.fixture
def runtime():
    return Disks()


def measured(runtime, storage, blob_dir=None):
    """A `Sizes` that has looked once, and its loop."""
    loop = HandLoop(runtime)
    sizes = Sizes(loop, storage, blob_dir)
    assert sizes.as_dict() is None
    sizes.start(InlineWorkers())
    return sizes, loop


def test_database_and_the_disk_of_both_are_told(runtime, tmp_path):
    (tmp_path / 'blobs' / '0x00').mkdir(parents=True)
    (tmp_path / 'blobs' / 'a.blob').write_bytes(b'x' * 1000)
    (tmp_path / 'blobs' / '0x00' / 'b.blob').write_bytes(b'x' * 10)
    (tmp_path / 'blobs' / '.layout').write_bytes(b'bushy')
    with contextlib.closing(FileStorage(str(tmp_path / 'Data.fs'))) as storage:
        sizes, _ = measured(runtime, storage, str(tmp_path / 'blobs'))
        assert sizes.as_dict() == {
            'data': storage.getSize(), 'pack': None, 'age': 0.0,
            'blobs': 1010, 'blob_files': 2, 'blobs_age': 0.0,
            'disks': [{'holds': 'database and blobs', 'free': 7 * GB, 'size': 10 * GB}]}


def test_disks_of_their_own_are_told_apart(runtime, tmp_path):
    (tmp_path / 'blobs').mkdir()
    runtime.other = str(tmp_path / 'blobs')
    with contextlib.closing(FileStorage(str(tmp_path / 'Data.fs'))) as storage:
        sizes, _ = measured(runtime, storage, str(tmp_path / 'blobs'))
    assert sizes.as_dict()['disks'] == [{'holds': 'database', 'free': 7 * GB, 'size': 10 * GB},
                                        {'holds': 'blobs', 'free': GB, 'size': 100 * GB}]


def test_blobs_are_counted_seldom_and_the_rest_often(runtime, tmp_path):
    sizes, loop = measured(runtime, MappingStorage(), str(tmp_path))
    (tmp_path / 'a.blob').write_bytes(b'x')
    loop.advance(INTERVAL_S)
    found = sizes.as_dict()
    assert (found['blobs'], found['blobs_age'], found['age']) == (0, INTERVAL_S, 0.0)
    for _ in range(int(COUNT_INTERVAL_S / INTERVAL_S)):
        loop.advance(INTERVAL_S)
    assert sizes.as_dict()['blobs'] == 1


def test_pack_shows_what_it_has_written(runtime, tmp_path):
    with contextlib.closing(FileStorage(str(tmp_path / 'Data.fs'))) as storage:
        sizes, loop = measured(runtime, storage)
        sizes.packing(True)
        (tmp_path / 'Data.fs.pack').write_bytes(b'x' * 77)
        assert sizes.as_dict()['pack'] == 0
        loop.advance(INTERVAL_S)
        assert sizes.as_dict()['pack'] == 77
        (tmp_path / 'Data.fs.pack').write_bytes(b'x' * 99)
        loop.advance(PACKING_INTERVAL_S)
        assert sizes.as_dict()['pack'] == 99
        sizes.packing(False)
        assert sizes.as_dict()['pack'] is None


def test_storage_that_does_not_say_and_a_disk_that_is_away_are_left_out(runtime, tmp_path):
    class Broken(MappingStorage):
        def getSize(self):
            raise OSError('gone')
    sizes, _ = measured(runtime, Broken(), str(tmp_path / 'gone'))
    found = sizes.as_dict()
    assert (found['data'], found['disks'], found['blobs']) == (None, [], 0)


def test_disk_that_does_not_answer_keeps_nobody_waiting(new_server, tmp_path):
    """D1.  The status is told without it."""
    asked, answer = threading.Event(), threading.Event()

    class Stuck(Runtime):
        def disk_usage(self, path):
            asked.set()
            answer.wait()
            return shutil.disk_usage(path)

    server = new_server({'1': FileStorage(str(tmp_path / 'Data.fs'))}, runtime=Stuck())
    try:
        assert asked.wait(60)
        with contextlib.closing(zeo_clone.client(server.addr)) as storage:
            assert storage.server_status()['sizes'] is None
    finally:
        answer.set()


def test_server_measures_blobs_that_clients_have_stored(new_server, tmp_path):
    storage = BlobStorage(str(tmp_path / 'blobs'), FileStorage(str(tmp_path / 'Data.fs')))
    server = new_server({'1': storage})
    cache = str(tmp_path / 'cache')
    with contextlib.closing(zeo_clone.connection(server.addr, blob_dir=cache)) as connection:
        connection.root()['blob'] = Blob(b'x' * 5000)
        connection.transaction_manager.commit()
    server.served['1'].backend.sizes._found = None
    server.call_in_loop(partial(server.served['1'].backend.sizes.start, server._measurers))
    while (found := server.server_status()['sizes']) is None:
        pass
    assert (found['blobs'], found['blob_files']) == (5000, 1)
    assert found['data'] == storage.getSize() > 0
    assert 0 < found['disks'][0]['free'] <= found['disks'][0]['size']
