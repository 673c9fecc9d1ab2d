"""Commits that wait for a slow disk together, in the process that users run: it is killed, it is stopped, its
disk is full."""
from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.utils import p64, z64

from tests.storage.helpers import commit, no_larger_files, store, store_blob
from tests.support.runzeo_process import Runzeo
from tests.support.server_process import reserved_port
from zeo_clone.addresses import format_address
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

CHECKOUT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.long, pytest.mark.once]

OID = p64(1)
COMMITTERS = 4


class Site:
    """A server with blobs whose syncs take `sync_ms` longer; `start` once more after its end."""

    def __init__(self, tmp_path, sync_ms):
        self.blobs = tmp_path / 'blobs'
        self.address = reserved_port(self)
        self._configuration = tmp_path / 'zeo.conf'
        self._configuration.write_text(
            f'%import zeo_clone\n<zeo>\naddress {format_address(self.address)}\n</zeo>\n<filestorage 1>\n'
            f'path {tmp_path}/Data.fs\nblob-dir {self.blobs}\n</filestorage>\n')
        self._command = (sys.executable, '-X', 'faulthandler', '-W', 'error',
                         CHECKOUT / 'benchmarks' / 'slowdisk.py', str(sync_ms),
                         CHECKOUT / 'scripts' / 'runzeo.py')
        self.server = None

    def start(self):
        self.server = Runzeo('-C', self._configuration, command=self._command, limit_s=300).ready()

    def kill(self):
        self.server.send(signal.SIGKILL)
        self.server.result()


@pytest.fixture
def site(tmp_path):
    sites = []

    def start(sync_ms):
        sites.append(Site(tmp_path, sync_ms))
        sites[-1].start()
        return sites[-1]

    yield start
    for each in sites:
        each.server.__exit__()


class Committer:
    """Counts an object up, each time with a new blob, in a thread of its own, until `enough` are answered."""

    def __init__(self, storage, number, directory):
        self.oid = p64(10 + number)
        self.blobs = {}  # oid: tid and content
        self._storage = storage
        self._number = number
        self._directory = directory
        self._thread = None

    def begin(self, enough):
        self._thread = threading.Thread(target=self._run, args=(enough,))
        self._thread.start()

    def join(self):
        self._thread.join()

    def _run(self, enough):
        attempts = 0
        while len(self.blobs) < enough:
            attempts += 1
            blob, content = p64(1000 * (self._number + 1) + attempts), b'%d' % attempts
            path = self._directory / f'{self._number}-{attempts}'
            try:
                data, serial = self._storage.load(self.oid)
                tid = commit(self._storage, store(self.oid, b'%d' % (int(data) + 1), serial),
                             store_blob(blob, path, content))
            except (ClientDisconnected, ConflictError, OSError):
                continue
            self.blobs[blob] = tid, content


def test_commits_that_wait_for_the_disk_when_the_server_is_killed(site, client, tmp_path):
    """D2, D4, B11, B12: what was acknowledged is there, once and whole; what was refused is not."""
    site = site(15)
    committers = []
    for number in range(COMMITTERS):
        storage = client(site.address, wait_timeout=30, blob_dir=str(tmp_path / f'client-{number}'))
        commit(storage, store(p64(10 + number), b'0'))
        committers.append(Committer(storage, number, tmp_path))
    for committer in committers:
        committer.begin(5)
    for _ in range(2):
        site.kill()
        site.start()
    for committer in committers:
        committer.join()
    reader = client(site.address, blob_dir=str(tmp_path / 'reader'))
    for committer in committers:
        assert int(reader.load(committer.oid)[0]) == 5
        for blob, (tid, content) in committer.blobs.items():
            with reader.openCommittedBlobFile(blob, tid) as file:
                assert file.read() == content
    site.kill()
    site.start()
    assert list((site.blobs / 'tmp').iterdir()) == []


def test_a_server_that_is_stopped_while_commits_wait_for_the_disk(site, client, in_thread):
    """T3, D4: they are synced and answered; the one that only voted is refused, and is not there."""
    site = site(100)
    storages = [client(site.address, wait_timeout=30) for _ in range(4)]
    for _ in range(2):  # it knows by now that syncs take their time
        commit(storages[0], store(p64(9), b'', storages[0].lastTransaction()))
    calls = []
    for number, storage in enumerate(storages):
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.store(p64(20 + number), z64, b'data', '', meta)
        storage.tpc_vote(meta)  # the one before has let go of the lock: it is finished, and to be synced
        if storage is not storages[-1]:
            calls.append(in_thread(storage.tpc_finish, meta))
    assert site.server.stop() == 0
    tids = [call.result() for call in calls]
    assert tids == sorted(set(tids))
    site.start()
    with pytest.raises(ClientDisconnected):
        storages[-1].tpc_finish(meta)
    reader = client(site.address)
    assert [reader.load(p64(20 + number)) for number in range(3)] == [(b'data', tid) for tid in tids]
    with pytest.raises(POSKeyError):
        reader.load(p64(23))


def test_a_full_disk_while_commits_wait_for_it(site, client, tmp_path):
    """D3, D4: who did not get in was told so; the others are there, and it goes on when there is room."""
    site = site(15)
    storage = client(site.address)
    tids = [commit(storage, store(OID, bytes(1000)))]
    size = (tmp_path / 'Data.fs').stat().st_size
    lost = []
    with no_larger_files(site.server, size + 20_000):
        writers = [client(site.address) for _ in range(COMMITTERS)]

        def write(number):
            for step in range(10):
                oid = p64(100 * (number + 1) + step)
                try:
                    tids.append(commit(writers[number], store(oid, bytes(1000))))
                except CommitOutcomeUnknown:
                    raise
                except Exception:
                    lost.append(oid)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(COMMITTERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert lost and len(tids) + len(lost) == 1 + 10 * COMMITTERS
    tids.append(commit(storage, store(p64(9), b'there is room')))
    site.kill()
    site.start()
    reader = client(site.address)
    assert {transaction.tid for transaction in reader.iterator()} >= set(tids)
    for oid in lost:
        with pytest.raises(POSKeyError):
            reader.load(oid)
