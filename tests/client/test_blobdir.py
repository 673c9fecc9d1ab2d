"""A client's blob directory: its bound, what is left after a crash, and who may use it."""
from __future__ import annotations

import errno
import logging
import os
import re
import resource
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.client.fake_server import p64
from tests.client.test_blobs import DATA, OID, TID, a_file, files_in, read, send_blob
from tests.support.forks import in_a_process_that_is_killed, told_by_child
from tests.support.power import Platter
from zeo_clone.client.blobdir import CACHE_DIRECTORIES, BlobCache, SharedBlobs
from zeo_clone.loop.runtime import REAL
from zeo_clone.loop.shareddir import locked


@pytest.fixture
def storage(fake, opened, tmp_path):
    fake.answers['sendBlob'] = send_blob
    return opened(blob_dir=str(tmp_path / 'blobs'))


# ---- the bound ----------------------------------------------------------------------------------

def test_the_bound_holds_after_the_last_arrival(tmp_path):
    """L7: what comes while a clean-up runs, which may not see it, is not left for the next one."""
    class Runtime(type(REAL)):
        def entries(self, directory):
            found = super().entries(directory)
            if directory == cache.path and late:
                arrive(late.pop())  # when the names have been read
            return found

    def arrive(number):
        cache.find(p64(number * CACHE_DIRECTORIES), TID, lambda part: a_file(tmp_path, b'x' * 1000, part))

    late = []
    cache = BlobCache(str(tmp_path / 'cache'), 3000, 10, Runtime())
    cache.close()
    late += range(10, 17)
    for number in range(4):
        arrive(number)
    cache.close()
    assert not late
    assert len(files_in(tmp_path / 'cache')) <= 3


@pytest.mark.parametrize('what', ['clean up', 'keep'])
def test_a_cache_on_a_broken_disk_says_so_once(tmp_path, caplog, what):
    """S16, L7: others are there at DEBUG."""
    class Runtime(type(REAL)):
        def entries(self, directory):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def rename(self, old, new):
            if what == 'keep' and new.endswith('.blob'):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.replace(old, new)

    cache = BlobCache(str(tmp_path / 'cache'), 100 if what == 'clean up' else None, 10, Runtime())
    cache.close()
    with caplog.at_level(logging.DEBUG):
        for number in range(4):
            cache.adopt(p64(number), TID, str(a_file(tmp_path, b'x' * 100, tmp_path / 'own')))
            cache.close()
    text = 'could not be cleaned up' if what == 'clean up' else 'cannot be kept'
    levels = [record.levelno for record in caplog.records if text in record.getMessage()]
    assert levels == [logging.WARNING, *[logging.DEBUG] * (len(levels) - 1)]
    assert len(levels) >= 4


def test_a_clean_up_waits_for_what_is_being_opened(tmp_path):
    """L7, B6: the bound holds when it has been opened, although nothing else happens."""
    class Impatient:
        """An event that is over at once: the clean-up tries again and again."""

        def wait(self, timeout):
            tried.set()
            return False

    tried = threading.Event()
    cache = BlobCache(str(tmp_path / 'cache'), 10, 10, REAL)
    cache.close()
    cache._closing = Impatient()
    path = cache.committed_path(OID, TID)
    os.makedirs(os.path.dirname(path))
    a_file(tmp_path, name=path)
    with locked(REAL, f'{path}.lock'):
        cache._start_cleaning()
        assert tried.wait(20)
        assert os.path.exists(path)
    cleaner = cache._cleaner
    if cleaner is not None:
        cleaner.join()
    assert not os.path.exists(path)


def test_a_clean_up_that_waits_ends_when_the_storage_is_closed(tmp_path):
    """L7."""
    cache = BlobCache(str(tmp_path / 'cache'), 10, 10, REAL)
    path = cache.committed_path(OID, TID)
    os.makedirs(os.path.dirname(path))
    a_file(tmp_path, name=path)
    with locked(REAL, f'{path}.lock'):
        cache._start_cleaning()
        cache.close()
        assert cache._cleaner is None


# ---- after a crash ------------------------------------------------------------------------------

class Disk(Platter, type(REAL)):
    """The real one, remembered."""


def test_a_cache_has_a_blob_whole_or_not_at_all_after_a_loss_of_power(tmp_path):
    """B11: at each step of downloads, of an own commit, and of taking over what ZEO has left."""
    (tmp_path / 'disk').mkdir()
    disk = Disk(tmp_path / 'disk')
    cache = BlobCache(str(tmp_path / 'disk' / 'cache'), None, 10, disk)
    cache.find(OID, TID, lambda part: a_file(tmp_path, name=part))
    part = cache.take_over(a_file(tmp_path))
    cache.sync(part)
    cache.adopt(p64(8), TID, part)
    cache.discard(part)
    old = super(BlobCache, cache).committed_path(p64(9), TID)
    os.makedirs(os.path.dirname(old))
    a_file(tmp_path, name=old)
    cache.find(p64(9), TID, None, lambda: len(DATA))
    assert len(disk.snapshots) > 12
    (tmp_path / 'images').mkdir()
    whole = 0
    for image, snapshot in disk.images(str(tmp_path / 'images')):
        after = BlobCache(os.path.join(image, 'cache'), None, 10, REAL)
        for oid in (OID, p64(8), p64(9)):
            with suppress(NothingThere):
                assert read(after.find(oid, TID, nothing_there)) == DATA, snapshot.step
                whole += 1
    disk.release()
    assert whole > 20


class NothingThere(Exception):
    """A download would be needed."""


def nothing_there(part):
    raise NothingThere


@pytest.mark.parametrize('left', [b'', DATA[:1000], DATA[:-1], DATA + b'x'])
def test_what_another_version_left_short_is_not_served(fake, opened, tmp_path, left):
    """B11: the server is asked for the size of a file that may have been there when the machine crashed."""
    fake.answers.update(sendBlob=send_blob, blob_size=lambda connection, oid, serial: len(DATA),
                        get_info=lambda connection: {'extensions': ['blob_size']})
    path = leave(tmp_path, left)
    storage = opened(blob_dir=str(tmp_path / 'blobs'))
    assert read(storage.loadBlob(OID, TID)) == DATA
    assert fake.called('sendBlob') == 1
    assert not os.path.exists(path)


def test_what_another_version_left_whole_is_taken_over(fake, opened, tmp_path):
    """B11: without a download; the size is asked for once."""
    fake.answers.update(blob_size=lambda connection, oid, serial: len(DATA),
                        get_info=lambda connection: {'extensions': ['blob_size']})
    leave(tmp_path, DATA)
    storage = opened(blob_dir=str(tmp_path / 'blobs'))
    for _ in range(2):
        assert read(storage.loadBlob(OID, TID)) == DATA
    assert (fake.called('sendBlob'), fake.called('blob_size')) == (0, 1)


def test_what_another_version_left_may_be_cleaned_away_at_any_moment(fake, opened, tmp_path):
    """B6: its clean-up does not know who is about to use it."""
    path = leave(tmp_path, DATA)

    def blob_size(connection, oid, serial):
        os.remove(path)
        return len(DATA)

    fake.answers.update(sendBlob=send_blob, blob_size=blob_size,
                        get_info=lambda connection: {'extensions': ['blob_size']})
    assert read(opened(blob_dir=str(tmp_path / 'blobs')).loadBlob(OID, TID)) == DATA


def test_what_another_version_left_is_not_trusted_where_the_server_tells_no_size(fake, opened, tmp_path):
    """B11: as ZEO's."""
    fake.answers['sendBlob'] = send_blob
    leave(tmp_path, DATA)
    storage = opened(blob_dir=str(tmp_path / 'blobs'))
    assert read(storage.loadBlob(OID, TID)) == DATA
    assert (fake.called('sendBlob'), fake.called('blob_size')) == (1, 0)


def leave(tmp_path, data):
    """What ZEO has of the blob in its cache."""
    path = tmp_path / 'blobs' / '7' / f'0.{TID.hex().lstrip("0").rjust(2, "0")}.blob'
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    (tmp_path / 'blobs' / '.layout').write_text('zeocache')
    return path


def test_a_marker_that_a_crash_left_empty_is_written_again(tmp_path):
    """B11."""
    (tmp_path / '.layout').touch()
    BlobCache(str(tmp_path), None, 10, REAL)
    assert read(tmp_path / '.layout') == b'zeocache'


def test_partial_files_of_killed_processes_are_discarded(tmp_path):
    """B10, C26: at start; not those of a process that lives, whatever its number."""
    alive = BlobCache(str(tmp_path), None, 10, REAL)
    part = alive.take_over(a_file(tmp_path))
    in_a_process_that_is_killed(
        lambda: BlobCache(str(tmp_path), None, 10, REAL).take_over(a_file(tmp_path)))
    assert len(os.listdir(tmp_path / 'tmp')) == 2
    BlobCache(str(tmp_path), None, 10, REAL)
    assert os.path.exists(part)
    alive.discard(part)
    BlobCache(str(tmp_path), None, 10, REAL)
    assert os.listdir(tmp_path / 'tmp') == []


#: What servers took as names in a shared directory before they were random, and ZEO's rule.
OLDER = re.compile(r'0x[0-9a-f]{2,16}(\w{8}\.tmp-?|-\d{1,10}-\d{1,20}\.tmp)', re.ASCII)


def test_names_in_a_shared_directory_are_random_and_known_to_older_servers(tmp_path):
    """C26, B5: for the same oid, in processes of the same number."""
    shared = SharedBlobs(str(tmp_path / 'shared'), REAL)
    names = {os.path.basename(shared.hand_over(OID, a_file(tmp_path))) for _ in range(100)}
    assert len(names) == 100
    assert all(OLDER.fullmatch(name) and name.endswith('.tmp') for name in names)


# ---- several users ------------------------------------------------------------------------------

@pytest.mark.parametrize(('permissions', 'directory', 'file'), [
    (0o2770, 0o2770, 0o440), (0o770, 0o770, 0o440), (0o777, 0o777, 0o444), (0o750, 0o700, 0o400),
    (0o755, 0o700, 0o400)])
def test_who_may_write_in_the_directory_may_use_what_is_in_it(fake, opened, tmp_path, permissions, directory,
                                                              file):
    """B13: the group's right is inherited whatever the umask is; nobody else gets more than that gives."""
    fake.answers['sendBlob'] = send_blob
    (tmp_path / 'blobs').mkdir()
    (tmp_path / 'blobs').chmod(permissions)
    before = os.umask(0o077)
    try:
        path = opened(blob_dir=str(tmp_path / 'blobs')).loadBlob(OID, TID)
    finally:
        os.umask(before)
    for made in (tmp_path / 'blobs' / 'tmp', os.path.dirname(path)):
        assert stat.S_IMODE(os.stat(made).st_mode) == directory
    assert stat.S_IMODE(os.stat(path).st_mode) == file


@pytest.mark.skipif(os.getuid() != 0, reason='needs root, to become two others')
@pytest.mark.parametrize('umask', [0o077, 0o027, 0o022])
def test_two_users_of_one_group_share_a_cache(shared_directory, umask):
    """B13: each downloads, each uses what the other has, each cleans up."""
    directory = shared_directory(0o2770)
    for user in (60001, 60002, 60001):
        assert as_user(user, umask, work, directory) == 'fine'
    assert len(files_in(directory)) < 6


@pytest.mark.skipif(os.getuid() != 0, reason='needs root, to become another')
@pytest.mark.parametrize(('permissions', 'where', 'right'), [
    (0o2750, '', 'write in'), (0o2770, 'tmp', 'write in'), (0o2770, '7', 'write in'),
    (0o2770, 'file', 'read')])
def test_a_right_that_is_missing_is_named(shared_directory, tmp_path, permissions, where, right):
    """B13: with the directory, whose it is, and what to do."""
    directory = shared_directory(permissions)
    path = BlobCache(directory, None, 10, REAL).find(OID, TID, lambda part: a_file(tmp_path, name=part))
    if where == 'file':
        os.chmod(path, 0o400)
        path = culprit = path
    else:
        os.remove(path)
        culprit = os.path.join(directory, where).rstrip('/')
        os.chmod(culprit, permissions & ~0o020)
        os.chown(culprit, 0, 60000)
    told = as_user(60001, 0o022, work, directory)
    assert told.startswith(f'[Errno 13] blob cache {directory}: user 60001 of the groups 60000 has not the '
                           f'right to {right} {culprit}, which belongs to user 0 and group ')
    assert 'chmod g+rwxs' in told


@pytest.fixture
def shared_directory():
    """Makes one of the group 60000, where others get to: what is above `tmp_path` each pytest closes anew."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o711)

        def make(permissions):
            directory = os.path.join(place, 'shared')
            os.mkdir(directory)
            os.chown(directory, 0, 60000)
            os.chmod(directory, permissions)
            return directory

        yield make


def work(directory):
    cache = BlobCache(directory, 3 * len(DATA), 10, REAL)
    for number in (7, *range(os.getuid() % 10, 12)):
        path = cache.find(p64(number), TID, lambda part: Path(part).write_bytes(DATA))
        assert cache.use(p64(number), TID, nothing_there, read) == DATA or path
    cache.close()
    return 'fine'


def as_user(user, umask, function, *args):
    """What `function` returns, or the text of its error, in a process of that user and the group 60000."""
    def become():
        os.umask(umask)
        os.setgroups([])
        os.setgid(60000)
        os.setuid(user)
        return function(*args)

    return told_by_child(become)


def test_an_error_of_the_server_is_not_taken_for_one_of_the_cache(fake, storage):
    """B13."""
    def refuse(connection, oid, serial):
        raise PermissionError(errno.EACCES, 'the server may not read it', '/srv/blobs/1')

    fake.answers['sendBlob'] = refuse
    with pytest.raises(PermissionError, match='the server may not read it'):
        storage.loadBlob(OID, TID)


# ---- what fails ----------------------------------------------------------------------------------

NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Failing(type(REAL)):
    """The real world, where the doors of `errors` raise them, once the directory is there."""

    def __init__(self, **errors):
        self.errors = {}
        self._later = errors

    def begin(self):
        """From now on."""
        self.errors = self._later

    def _check(self, door):
        if door in self.errors:
            raise self.errors[door]

    def copy(self, source, path):
        self._check('copy')
        super().copy(source, path)

    def rename(self, old, new):
        self._check('rename')
        os.replace(old, new)
        self._check('renamed')

    def remove(self, path):
        self._check('remove')
        os.remove(path)

    def stat(self, path):
        self._check('stat')
        return super().stat(path)

    def utime(self, path):
        self._check('utime')
        os.utime(path)

    def start_thread(self, *args, **options):
        self._check('start_thread')
        return super().start_thread(*args, **options)

    def entries(self, directory):
        self._check('entries')
        return super().entries(directory)


def failing(tmp_path, kind=BlobCache, size=None, **errors):
    """A directory in such a world, and the world."""
    world = Failing(**errors)
    blobs = kind(str(tmp_path / 'blobs'), *([size, 10] if kind is BlobCache else []), world)
    world.begin()
    return blobs, world


def test_a_new_directory_on_a_full_disk_is_named(tmp_path):
    """L7: to whoever opens the storage."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # nothing can be written
    try:
        with pytest.raises(OSError, match=f': .{tmp_path}/blobs/'):
            BlobCache(str(tmp_path / 'blobs'), None, 10, REAL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_in(tmp_path / 'blobs') == []


@pytest.mark.parametrize('kind', [BlobCache, SharedBlobs])
def test_a_file_that_cannot_be_taken_over_stays_with_the_application(tmp_path, kind):
    """B2, B4: and nothing of it is left in the directory."""
    blobs, _ = failing(tmp_path, kind, rename=OSError(errno.EXDEV, 'another file system'), copy=NO_ROOM)
    with pytest.raises(OSError, match='No space left'):
        blobs.take_over(a_file(tmp_path))
    assert files_in(tmp_path / 'blobs') == []
    assert read(tmp_path / 'source') == DATA


def test_a_file_that_was_handed_over_although_that_failed_is_taken_back(tmp_path):
    """B2, B12: a network file system may have renamed it, and say that it has not."""
    blobs, world = failing(tmp_path, SharedBlobs, renamed=OSError(errno.EIO, 'timed out'))
    world.errors = {}
    source = blobs.take_over(a_file(tmp_path))
    world.begin()
    blobs.take_over = lambda path: path
    with pytest.raises(OSError, match='timed out'):
        blobs.hand_over(OID, source)
    assert files_in(tmp_path / 'blobs') == []


@pytest.mark.parametrize(('error', 'logged'), [
    (OSError(errno.EIO, 'broken'), False), (RuntimeError('odd'), True)])
def test_a_temporary_file_that_cannot_be_removed_is_nobodys_error(tmp_path, caplog, error, logged):
    """C21, C24: the transaction's end goes on; the next start removes it."""
    blobs, _ = failing(tmp_path, remove=error)
    part = blobs.take_over(a_file(tmp_path))
    blobs.discard(part)
    assert (f'{part} cannot be removed' in caplog.text) == logged
    assert [f'tmp/{os.path.basename(part)}'] == files_in(tmp_path / 'blobs')
    BlobCache(str(tmp_path / 'blobs'), None, 10, REAL)
    assert files_in(tmp_path / 'blobs') == []


def test_a_file_of_another_user_is_used_though_its_time_cannot_be_set(tmp_path):
    """B13: its time of access tells the clean-up."""
    blobs, _ = failing(tmp_path, utime=PermissionError(errno.EPERM, 'not yours'))
    path = blobs.find(OID, TID, lambda part: a_file(tmp_path, name=part))
    assert blobs.find(OID, TID, lambda part: 1 / 0) == path


def test_a_clean_up_that_fails_in_a_way_of_its_own_is_told_and_not_the_last(tmp_path, caplog):
    """L7, S16."""
    blobs, world = failing(tmp_path, size=100, entries=RuntimeError('odd'))
    blobs.close()
    blobs.adopt(OID, TID, a_file(tmp_path))
    blobs.close()
    assert 'could not be cleaned up' in caplog.text and 'RuntimeError: odd' in caplog.text
    world.errors = {}
    blobs.adopt(p64(8), TID, a_file(tmp_path))
    blobs.close()
    assert files_in(tmp_path / 'blobs') == []


def test_a_cache_for_which_there_is_no_thread_now_is_cleaned_up_later(tmp_path, caplog):
    """B6: nor does a blob that is here become an error."""
    blobs, world = failing(tmp_path, size=100, start_thread=RuntimeError("can't start new thread"))
    blobs.close()
    blobs.use(OID, TID, lambda path: a_file(tmp_path, name=path), lambda path: None)
    assert "could not be cleaned up: can't start new thread" in caplog.text
    world.errors = {}
    blobs.adopt(p64(8), TID, a_file(tmp_path))
    blobs.close()
    assert files_in(tmp_path / 'blobs') == []


def test_a_layout_that_nobody_knows_is_refused(tmp_path):
    """B7."""
    (tmp_path / 'blobs').mkdir()
    (tmp_path / 'blobs' / '.layout').write_text('strange')
    with pytest.raises(ValueError, match="laid out in a way that is not known, 'strange'"):
        SharedBlobs(str(tmp_path / 'blobs'), REAL)


def test_a_directory_of_a_cache_belongs_to_no_single_oid(tmp_path):
    """ZODB's helper asks for that when it looks through all files; it gets no wrong one."""
    helper = BlobCache(str(tmp_path / 'blobs'), None, 10, REAL).fshelper
    assert helper.getPathForOID(p64(CACHE_DIRECTORIES + 7)).rstrip('/').endswith('/7')
    with pytest.raises(ValueError, match='several oids'):
        helper.getOIDForPath(str(tmp_path / 'blobs' / '7'))


def test_a_network_file_system_that_does_not_answer_is_not_taken_for_a_missing_blob(tmp_path):
    """B7: who is told that there is no such blob believes it."""
    blobs, _ = failing(tmp_path, SharedBlobs, stat=OSError(errno.EIO, 'timed out'))
    with pytest.raises(OSError, match='timed out'):
        blobs.find(OID, TID)
