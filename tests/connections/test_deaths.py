"""D4, C11, N14: a server is killed (-9) between any two steps of a commit, an undo, a restore, a pack, a
start or an end, and a new one is started on what it has left.

`mortal` says what a step is.  A life is: something is begun, the server dies at one of its steps, another
one is started, and the clients go on.  After each life the file, ZODB's own opinion of it, the blobs, the
outcomes and what every client sees have to fit together.

With ``ZEO_CLONE_HEAVY=1`` a scenario is lived once for each step, until a life has no more, in each mode;
else for those in `STEPS`.  With ``-s`` it tells where it has killed.
"""
from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import re
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from ZODB.blob import is_blob_record
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.scripts import fstest
from ZODB.utils import maxtid, p64, z64

from tests.connections import wire
from tests.storage.helpers import BLOB_RECORD
from tests.support.json_process import ChildError
from tests.support.server_process import ServerHost, reserved_port
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

pytestmark = [pytest.mark.long, pytest.mark.once]

HEAVY = bool(os.environ.get('ZEO_CLONE_HEAVY'))
#: What a server process may be told before it dies.
SLOW = {'zeo_clone.server.backend.groupcommit.QUICK_S': -1.0}  # its syncs are worth a change of threads
HELPER = {'zeo_clone.configuration.packer.SMALL': 0}  # its packs a process of their own
#: Clients that commit at once.
COMMITTERS = 3 if HEAVY else 2
#: Objects that are there from the first life on, beyond all that a server hands out.
OIDS = [p64((1 << 20) + number) for number in range(COMMITTERS)]
#: What may be beside the file; ZODB adds a number to what it has cut off.
FILES = {'blobs', 'blobs.old', 'Data.fs', 'Data.fs.lock', 'Data.fs.tmp', 'Data.fs.index',
         'Data.fs.index.index_tmp', 'Data.fs.identity', 'Data.fs.old', 'Data.fs.pack', 'Data.fs.packindex',
         'Data.fs.tr'}
VARYING = re.compile(r'\d+$')
#: No step has this name.
NEVER = 'never'


class Mortal:
    """A server that is killed at a step, and started anew at the same address."""

    def __init__(self, root, log, storage, settings):
        self.root, self.log = root, log
        self.address = reserved_port(self)
        self._storage = storage
        self._settings = settings
        self._host = self._served = None

    def start(self, when=NEVER):
        """If it is to die at a step of its start, it does; `steps` tells."""
        self._host = ServerHost()
        try:
            self.plant(when)
            self._served = self._host.start([self._storage], self.address)
            self.plant(NEVER)
        except BaseException:
            self.bury()
            raise

    def plant(self, when):
        self._host.plant(when, self.root, self.log, self._settings)

    def dying(self):
        """Functions for another thread: ask it to end in order, ask it to die."""
        host, number = self._host, self._served.number

        def send(request):
            with contextlib.suppress(ChildError, ValueError):
                host.process.send(request)

        return lambda: (send({'stop': number}), send({'die': True})), lambda: send({'die': True})

    def await_death(self):
        with contextlib.suppress(ChildError):
            while True:
                self._host.process.receive()
        self.bury()

    def bury(self):
        host, self._host = self._host, None
        if host is not None:
            host.process.kill()

    def steps(self):
        return self.log.read_text().splitlines()


class Attempt:
    """A transaction: `outcome` is what its client knows of it, a tid, None for nothing, or the exception."""

    def __init__(self, description, operations):
        self.description = description
        self.outcome = CommitOutcomeUnknown('never came to an end')
        self.early = None  # the tid that was told before
        self.records = {args[0]: args[2] for name, *args in operations if name in ('store', 'storeBlob')}


class Site:
    """A database, its server, and clients that live longer than that."""

    def __init__(self, tmp_path, client, settings, **options):
        self.directory = tmp_path / 'served'
        self.directory.mkdir()
        self.path, self.blobs = str(self.directory / 'Data.fs'), str(self.directory / 'blobs')
        self.scratch = tmp_path
        self._client = client
        self._numbers = itertools.count(1)
        storage = {'kind': 'file', 'path': self.path, 'blob_dir': self.blobs, 'pack_gc': False, **options}
        self.server = self.door = Mortal(self.directory, tmp_path / 'steps', storage, settings)
        self.victim = self.server
        self.server.start()
        self.relay = None
        self.attempts = []
        self.contents = {}  # oid of a blob: its content
        self.permits_unknown = False
        self.first_start, self.died_at = NEVER, None
        self.committed = {}  # description: tid, of all that were there once
        self.newest = z64  # the object that a pack's life has made, if it came to that

    def put_relay(self, settings):
        """From now on clients come through another server, in front of this one."""
        directory = self.scratch / 'relay'
        directory.mkdir()
        self.relay = self.door = Mortal(directory, self.scratch / 'relay-steps', {
            'kind': 'client', 'addr': self.server.address, 'cache': str(directory / 'relay.zec'),
            'wait': False, 'blob_dir': str(directory / 'blobs'), 'max_disconnect_poll': 0.05}, settings)
        self.relay.start()

    def open(self):
        self.clients = [self.connect(self.door.address) for _ in range(COMMITTERS)]
        self.bystander = self.connect(self.server.address)
        self.everybody = [*self.clients, self.bystander]
        # Of a transaction that makes new objects only, nobody can say that it was not committed once there is
        # a later one: it might have been packed away.
        self.commit(self.bystander, *map(self.store, OIDS))

    def connect(self, address, **options):
        number = next(self._numbers)
        return self._client(address, wait_timeout=60, max_disconnect_poll=0.05,
                            **{'blob_dir': str(self.scratch / f'blobs-{number}'), **options})

    def close(self):
        for server in (self.relay, self.server):
            if server is not None:
                server.bury()

    # ---- what clients do --------------------------------------------------------------------------

    def new_path(self, content):
        path = self.scratch / f'content-{next(self._numbers)}'
        path.write_bytes(content)
        return str(path)

    def blob(self, oid, serial=z64):
        """An operation, with a content that there was never before."""
        content = b'%d' % next(self._numbers) * 5000
        self.contents[oid, content[:9]] = content
        return 'storeBlob', oid, serial, BLOB_RECORD + content[:9], self.new_path(content), ''

    def store(self, oid, serial=z64, size=100):
        return 'store', oid, serial, b'cN\nNew\n.%d' % next(self._numbers) + b'.' * size, ''

    def commit(self, storage, *operations):
        attempt = Attempt(b'attempt %d' % next(self._numbers), operations)
        self.attempts.append(attempt)
        meta = TransactionMetaData('', attempt.description.decode())
        try:
            storage.tpc_begin(meta)
            for name, *args in operations:
                getattr(storage, name)(*args, meta)
            storage.tpc_vote(meta)
            attempt.outcome = storage.tpc_finish(meta)
        except ClientDisconnected:
            attempt.outcome = None
            storage.tpc_abort(meta)
        except CommitOutcomeUnknown as error:
            attempt.outcome = error
        return attempt.outcome

    def at_once(self, *functions):
        with ThreadPoolExecutor(len(functions)) as pool:
            for doing in [pool.submit(function) for function in functions]:
                doing.result()

    # ---- a life -----------------------------------------------------------------------------------

    def live(self, when, scenario):
        """The steps of the life, as far as it went."""
        self.attempts = []
        self.permits_unknown = False
        acting = scenario(self)
        next(acting)
        with contextlib.suppress(ChildError):  # it may die before it has answered
            self.victim.plant(when)
        self.stop, die = self.victim.dying()

        def act():
            try:
                for _ in acting:
                    pass
                with contextlib.suppress(ClientDisconnected):
                    self.bystander.ping()  # what it is told is a step, too
            finally:
                die()

        with ThreadPoolExecutor(1) as pool:
            doing = pool.submit(act)
            self.victim.await_death()
            self.steps = self.victim.steps()
            self.revive()
            doing.result()
        self.judge()
        return self.steps

    def revive(self):
        """Start the server that died anew."""
        if self.victim is self.server:
            if not os.path.exists(self.path):
                with pytest.raises(ChildError, match='a pack was cut short'):
                    self.server.start()
                os.rename(f'{self.path}.old', self.path)  # as it says
                with contextlib.suppress(FileNotFoundError):
                    os.remove(f'{self.path}.index')
            examine(self.path, self.scratch / 'copy')
        when, self.first_start = self.first_start, NEVER
        try:
            self.victim.start(when)
        except ChildError:
            self.died_at = self.victim.steps()[-1]
            examine(self.path, self.scratch / 'copy')
            self.victim.start()
        else:
            self.died_at = None

    def judge(self):
        """Does all fit together?"""
        found = transactions(self.path)
        fstest.check(self.path)
        counts = Counter(description for _, description, _ in found)
        by_description = {description: (tid, records) for tid, description, records in found}
        for attempt in self.attempts:
            there = counts[attempt.description]
            assert there <= 1, 'committed twice'
            if isinstance(attempt.outcome, bytes):
                assert there == 1, 'acknowledged and lost'
                assert by_description[attempt.description][0] == attempt.outcome
            elif attempt.outcome is None:
                assert there == 0, 'refused and committed'
            else:
                assert self.permits_unknown, attempt.outcome
            if there:
                tid, records = by_description[attempt.description]
                assert attempt.early in (None, tid)
                assert attempt.records in ({}, records)
        for description in self.committed:
            assert counts[description] == 1, 'lost since'
        self.committed = counts
        self._judge_clients(found)

    def _judge_clients(self, found):
        current = {oid: (data, tid) for tid, _, records in found for oid, data in records.items()}
        fresh = self.connect(self.door.address)
        for storage in (*self.everybody, fresh):
            storage.ping()
            for oid, revision in current.items():
                assert storage.loadBefore(oid, maxtid)[:2] == revision
            for attempt in self.attempts:
                for oid in attempt.records:
                    if oid not in current:
                        with pytest.raises(POSKeyError):
                            storage.loadBefore(oid, maxtid)
        for oid, (data, tid) in current.items():
            if is_blob_record(data):
                with fresh.openCommittedBlobFile(oid, tid) as file:
                    assert file.read() == self.contents[oid, data[len(BLOB_RECORD):]]
        fresh.close()
        self._judge_files(found)

    def _judge_files(self, found):
        """Nothing is missing, and nothing left."""
        files = Counter(name for _, _, names in os.walk(self.blobs) for name in names)
        files -= Counter(f'0x{tid.hex()}.blob' for tid, _, records in found for data in records.values()
                         if is_blob_record(data))
        left = {*files, *os.listdir(os.path.join(self.blobs, 'tmp'))} - {'.layout'}
        if 'rename Data.fs' not in self.steps[:-1]:  # no pack has put its file into place
            left.discard('.removed')
        assert not left
        assert {VARYING.sub('', name) for name in os.listdir(self.directory)} <= FILES


def transactions(path):
    """What is in the file, as ZODB reads it: tid, description and records of each transaction."""
    with closing(FileStorage(path, read_only=True)) as storage:
        return [(one.tid, one.description, {record.oid: record.data for record in one})
                for one in storage.iterator()]


def examine(path, copy):
    """ZODB's own storage takes the file as it was left; an index that is beside it is right."""
    shutil.copy(path, copy)
    with closing(FileStorage(str(copy))) as anew, closing(FileStorage(path, read_only=True)) as storage:
        assert dict(anew._index.items()) == dict(storage._index.items())
        assert {record.oid for one in anew.iterator() for record in one} == set(anew._index)
    fstest.check(str(copy))
    for name in os.listdir(os.path.dirname(copy)):
        if name.startswith(os.path.basename(copy)):
            os.remove(os.path.join(os.path.dirname(copy), name))


# ---- the scenarios ---------------------------------------------------------------------------------
# What comes before `yield` is no part of the life that may end.

def one_commit(site):
    """Two objects, one of them new."""
    storage = site.clients[0]
    serial, new = serial_of(storage, OIDS[0]), storage.new_oid()
    yield
    site.commit(storage, site.store(OIDS[0], serial), site.store(new, size=20_000))


def commits_at_once(site):
    """Of three clients, each a new blob and a new revision of one."""
    new = [client.new_oid() for client in site.clients]
    serials = [serial_of(client, OIDS[number]) for number, client in enumerate(site.clients)]
    yield
    site.at_once(*[lambda number=number, client=client: site.commit(
        client, site.blob(OIDS[number], serials[number]), site.blob(new[number]))
        for number, client in enumerate(site.clients)])


def an_undo(site):
    """Of the second revisions of two blobs."""
    storage = site.clients[0]
    oids = [storage.new_oid(), storage.new_oid()]
    first = site.commit(storage, *map(site.blob, oids))
    site.commit(storage, *[site.blob(oid, first) for oid in oids])
    undo_id = site.bystander.undoLog(0, 1)[0]['id']
    yield
    site.commit(storage, ('undo', undo_id))


def a_restore(site):
    """Transactions with the tids that they had elsewhere, as a copy of a database has them."""
    storage = site.clients[0]
    oids, serial = [storage.new_oid(), storage.new_oid()], site.bystander.lastTransaction()
    tids = [p64(int.from_bytes(serial, 'big') + number) for number in (1, 2)]
    yield
    for tid in tids:
        attempt = Attempt(b'restore %s' % tid.hex().encode(), ())
        site.attempts.append(attempt)
        meta = TransactionMetaData('', attempt.description.decode())
        try:
            storage.tpc_begin(meta, tid, ' ')
            for oid in oids:
                attempt.records[oid] = b'cN\nNew\n.%s' % tid.hex().encode()
                storage.restore(oid, tid, attempt.records[oid], '', None, meta)
            storage.tpc_vote(meta)
            attempt.outcome = storage.tpc_finish(meta)
        except ClientDisconnected:
            attempt.outcome = None
            storage.tpc_abort(meta)
            break
        assert attempt.outcome == tid


def a_pack(site):
    """While somebody commits."""
    packs, commits = site.clients[:2]
    # Each life has as much to keep and to remove; else there would be more steps than lives, for ever.
    if serial_of(commits, site.newest) != z64:
        site.commit(commits, ('deleteObject', site.newest, serial_of(commits, site.newest)))
    packs.pack(time.time(), wait=True)
    oid = OIDS[0]
    serial = site.commit(commits, site.blob(oid, serial_of(commits, oid)))
    serial = site.commit(commits, site.blob(oid, serial))
    site.committed, site.attempts = {}, []  # these may go
    new, other = commits.new_oid(), serial_of(commits, OIDS[1])
    site.newest = new
    site.permits_unknown = True  # a pack could have removed it
    yield

    def pack():
        with contextlib.suppress(ClientDisconnected):
            packs.pack(time.time(), wait=True)

    site.at_once(pack, lambda: site.commit(commits, site.store(new), site.store(OIDS[1], other)))


def an_end(site):
    """In good order, with commits on their way."""
    serials = [serial_of(client, OIDS[number]) for number, client in enumerate(site.clients)]
    yield
    site.at_once(site.stop, *[lambda number=number, client=client: site.commit(
        client, site.store(OIDS[number], serials[number])) for number, client in enumerate(site.clients)])


def a_client_of_zeo_4(site):
    """It gets the serials of what it stores with the vote, before anything is committed."""
    oid, attempt = site.bystander.new_oid(), Attempt(b'ZEO 4 %d' % next(site._numbers), ())
    site.attempts.append(attempt)
    attempt.records[oid] = b'cN\nNew\n.'
    site.permits_unknown = True  # it cannot ask
    yield
    with contextlib.suppress(OSError, EOFError), closing(wire.Peer(site.door.address)) as peer:
        peer.read()
        peer.send(wire.framed(b'Z4'), wire.call(1, 'register', '1', False))
        reply_to(peer, 1)
        peer.send(wire.oneway('tpc_begin', 7, '', attempt.description.decode(), {}, None, ' '),
                  wire.oneway('storea', oid, z64, attempt.records[oid], 7), wire.call(2, 'vote', 7))
        ((_, (serials,)),), _ = reply_to(peer, 2)
        (_, attempt.early), = serials
        peer.send(wire.call(3, 'tpc_finish', 7))
        attempt.outcome = reply_to(peer, 3)[1]


def reply_to(peer, number):
    """What came before it, and the value."""
    before = []
    while True:
        content = peer.read()
        if not content.endswith(b'.'):
            raise EOFError  # half of it
        message_id, _, name, value = pickle.loads(content)
        if name == '.reply' and message_id == number:
            return before, value
        before.append((name, value))


def serial_of(storage, oid):
    try:
        return storage.loadBefore(oid, maxtid)[1]
    except POSKeyError:
        return z64


# ---- all of it -------------------------------------------------------------------------------------

#: Where to kill when there is little time: each of them is reached.
STEPS = {
    one_commit: ['half of write Data.fs', 'send reply to vote', 'write a byte of Data.fs', 'fsync Data.fs',
                 'send invalidateTransaction', 'send reply to tpc_finish',
                 'half of send reply to tpc_finish'],
    commits_at_once: ['half of write *.upload', 'symlink *.note', 'rename *.blob', 'fsync of an oid',
                      'fsync Data.fs', 'remove *.note', 'send invalidateTransaction',
                      'send reply to tpc_finish'],
    an_undo: ['make tmp*', 'half of write tmp*', 'symlink *.note', 'rename *.blob', 'rmdir undo-*',
              'write Data.fs', 'fsync *.blob', 'fsync Data.fs'],
    a_restore: ['half of write Data.fs', 'fsync Data.fs', 'send reply to tpc_finish'],
    a_pack: ['make Data.fs.pack', 'fsync Data.fs.pack', 'rename Data.fs.old', 'rename Data.fs',
             'mkdir blobs.old', 'rename *.blob', 'remove .removed', 'rename Data.fs.index'],
    an_end: ['rename Data.fs.index'],
    a_client_of_zeo_4: ['fsync Data.fs', 'send info'],
}
#: The same of a relay.
RELAYED = ['send vote', 'send tpc_finish', 'send reply to tpc_finish']


def kill_at_each_step(site, scenario, names):
    """Live `scenario` for each of its steps, by number, until a life has none; or for those `names`."""
    seen = Counter()
    for when in itertools.count(1) if HEAVY else names:
        steps = site.live(when, scenario)
        if type(when) is int and len(steps) < when:
            break
        assert type(when) is int or steps[-1] == when, f'{when} is not reached'
        seen[steps[-1]] += 1
    assert len(seen) >= len(names)
    report(scenario.__name__, seen)


def report(what, seen):
    """For whoever runs all of it: ``pytest -s``."""
    print(f'{what}: {sum(seen.values())} kills at', ', '.join(f'{name} ({seen[name]})' for name in seen))


@pytest.fixture
def site(tmp_path, client):
    sites = []

    def make(settings, relay=False, **options):
        sites.append(Site(tmp_path, client, settings, **options))
        if relay:
            sites[-1].put_relay(settings)
        sites[-1].open()
        return sites[-1]

    yield make
    for each in sites:
        each.close()


MODES = {'quick': ({}, {}), 'slow': (SLOW, {}), 'plain': ({}, {'group_commit': False}),
         'helper': (HELPER, {}), 'remove': ({}, {'pack_keep_old': False})}
WHERE = [(scenario, 'quick' if scenario is a_pack else 'slow') for scenario in STEPS]
if HEAVY:
    WHERE = [(scenario, mode) for scenario in STEPS for mode in MODES
             if scenario is a_pack or mode in ('quick', 'slow', 'plain')]


@pytest.mark.parametrize('scenario, mode', WHERE)
def test_the_server_is_killed_at_each_step(site, scenario, mode):
    """D4, C11, N14, B12: what was acknowledged is there once, what was refused is not, nothing is unknown."""
    settings, options = MODES[mode]
    kill_at_each_step(site(settings, **options), scenario, STEPS[scenario])


@pytest.mark.parametrize('scenario', [one_commit, commits_at_once, an_undo] if HEAVY else [one_commit])
@pytest.mark.parametrize('victim', ['server', 'relay'])
def test_a_server_before_a_server_is_killed_at_each_step(site, scenario, victim):
    """D4, C11: the one that has the file, or the relay."""
    site = site(SLOW, relay=True)
    site.victim = getattr(site, victim)
    kill_at_each_step(site, scenario, RELAYED if victim == 'relay' else STEPS[scenario][-3:])


@pytest.mark.parametrize('left_by', ['rename *.blob', 'fsync Data.fs'] if HEAVY else ['rename *.blob'])
def test_a_server_is_killed_at_each_step_of_its_start(site, left_by):
    """D4, B12: after it was killed in a commit; the next start is in order."""
    site, seen, names = site({}), Counter(), ['fsync Data.fs', 'remove *.upload', 'remove *.note']
    for site.first_start in itertools.count(1) if HEAVY else names:
        site.live(left_by, commits_at_once)
        if site.died_at is None:
            break
        seen[site.died_at] += 1
    assert set(seen) >= set(names)
    report('a start', seen)
