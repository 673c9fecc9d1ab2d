"""A directory that several processes use: locks, names, permissions."""
from __future__ import annotations

import errno
import gc
import os
import time

import pytest

from tests.support.forks import in_a_process_that_is_killed, told_by_child
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.loop.shareddir import LEFT_OVER_AGE_S, Scratch, left_over, locked, make_directory, move


class WithoutLocks(Runtime):
    """As some network file systems are."""

    def flock(self, fd, *, shared=False, wait=True):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def made(scratch, kind='part', age_s=0.0):
    path = scratch.take(kind)
    REAL.create(path).close()
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def found(directory, runtime=REAL):
    with left_over(runtime, str(directory)) as paths:
        return paths


def test_names_are_those_of_nobody_else(tmp_path):
    """C26: processes of the same number, as in containers, get different ones; no process id is in them."""
    names = {told_by_child(lambda: Scratch(REAL, str(tmp_path)).take('part')) for _ in range(50)}
    assert len(names) == 50


def test_older_clients_do_not_take_them_for_left_over(tmp_path):
    """C26: they look for a process id after the "zeo-"."""
    for _ in range(1000):
        scratch = Scratch(REAL, str(tmp_path))
        path = scratch.take('part')
        assert not os.path.basename(path).split('-')[1].isdigit()
        scratch.give_back(path)


def test_files_of_a_process_that_was_killed_are_left_over(tmp_path):
    """C26: at once, since its lock has gone."""
    in_a_process_that_is_killed(lambda: [made(Scratch(REAL, str(tmp_path))) for _ in range(3)])
    assert len(found(tmp_path)) == 3


def test_files_of_a_living_owner_are_not(tmp_path):
    """C26: neither those of this process nor those of another one, nor what may be anybody's meanwhile."""
    scratch = Scratch(REAL, str(tmp_path))
    path = made(scratch)
    in_a_process_that_is_killed(lambda: made(Scratch(REAL, str(tmp_path))))
    assert found(tmp_path) == []
    scratch.give_back(path)
    assert len(found(tmp_path)) == 1
    assert not os.path.exists(path)


def test_old_files_are_left_over_whatever_is_locked(tmp_path):
    """C26: where nobody can be asked, age tells; that of files of other versions, too."""
    scratch = Scratch(WithoutLocks(), str(tmp_path))
    made(scratch)
    old = [made(scratch, age_s=LEFT_OVER_AGE_S + 100)]
    for name, age_s in [('zeo-17-4.part', 1e6), ('zeo-18-1.part', 0), ('zeo-abc_1234.upload', 1e6),
                        ('BUCabcdefgh', 1e6), ('zeo-mine.txt', 1e6)]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
        if name.startswith('zeo-') and age_s and not name.endswith('txt'):
            old.append(str(tmp_path / name))
    assert found(tmp_path, WithoutLocks()) == sorted(old)
    held = Scratch(REAL, str(tmp_path))
    path = held.take('part')
    assert found(tmp_path) == sorted(old)
    held.give_back(path)


def test_nothing_is_held_when_nothing_is_there(tmp_path):
    """B2: descriptors are as before; what somebody has taken over is given back, too."""
    gc.collect()
    before = len(os.listdir('/proc/self/fd'))
    scratch = Scratch(REAL, str(tmp_path))
    one, other = made(scratch), made(scratch)
    assert len(os.listdir('/proc/self/fd')) == before + 1
    os.rename(one, tmp_path / 'taken')
    for path in (one, other, other):
        scratch.give_back(path)
    assert len(os.listdir('/proc/self/fd')) == before
    assert os.listdir(tmp_path) == ['taken']


def test_a_child_does_not_hold_the_lock_of_its_parent(tmp_path):
    """N10."""
    scratch = Scratch(REAL, str(tmp_path))
    path = made(scratch)

    def child():
        before = len(os.listdir('/proc/self/fd'))
        scratch.forsake()
        return f'{len(os.listdir("/proc/self/fd")) - before}, {os.path.exists(path)}'

    assert told_by_child(child) == '-1, True'
    assert found(tmp_path) == []
    scratch.give_back(path)


@pytest.mark.parametrize(('permissions', 'expected'), [
    (0o770, 0o770), (0o2770, 0o2770), (0o777, 0o777), (0o750, 0o700), (0o700, 0o700)])
def test_a_directory_is_for_those_who_may_write_above(tmp_path, permissions, expected):
    """B13: and the ones between are made."""
    (tmp_path / 'top').mkdir()
    (tmp_path / 'top').chmod(permissions)
    before = os.umask(0o077)
    try:
        make_directory(REAL, str(tmp_path / 'top' / 'a' / 'b'))
        make_directory(REAL, str(tmp_path / 'top' / 'a'))
        with locked(REAL, str(tmp_path / 'top' / 'lock')) as mine:
            assert mine
            assert os.stat(tmp_path / 'top' / 'lock').st_mode & 0o777 == expected & 0o666
    finally:
        os.umask(before)
    for path in (tmp_path / 'top' / 'a', tmp_path / 'top' / 'a' / 'b'):
        assert path.stat().st_mode & 0o7777 == expected


def test_a_file_is_moved_from_another_file_system(tmp_path):
    """B1: an application's blob may lie anywhere."""
    class Partitions(Runtime):
        def rename(self, old, new):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    source, path = tmp_path / 'source', tmp_path / 'path'
    source.write_bytes(b'blob')
    move(Partitions(), str(source), str(path))
    assert path.read_bytes() == b'blob'
    assert not source.exists()


def test_a_lock_that_somebody_has_is_waited_for_only_if_wanted(tmp_path):
    """B2: and if it cannot be had at all, nothing stays open."""
    path, before = str(tmp_path / 'lock'), REAL.next_descriptor()
    with locked(REAL, path) as mine, locked(REAL, path, wait=False) as ours:
        assert (mine, ours) == (True, False)
    assert not os.path.exists(path)
    with pytest.raises(OSError, match='locks'), locked(WithoutLocks(), path):
        pass
    assert REAL.next_descriptor() == before


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(tmp_path):
    """B2: its last holder removes it; else two would have the lock, each of another file."""
    path = tmp_path / 'lock'

    class Late(Runtime):
        """The one before has it until it is asked for."""
        asked = 0

        def flock(self, fd, *, shared=False, wait=True):
            self.asked += 1
            if self.asked == 1:
                path.unlink()
            return super().flock(fd, shared=shared, wait=wait)

    runtime = Late()
    with locked(runtime, str(path)) as mine:
        assert (mine, runtime.asked, path.exists()) == (True, 2, True)


def test_an_interrupt_in_a_lock_leaves_nothing_open(tmp_path):
    """B2."""
    class Interrupted(Runtime):
        def flock(self, fd, *, shared=False, wait=True):
            raise KeyboardInterrupt

    before = REAL.next_descriptor()
    with pytest.raises(KeyboardInterrupt):
        Scratch(Interrupted(), str(tmp_path)).take('part')
    assert REAL.next_descriptor() == before
    scratch = Scratch(WithoutLocks(), str(tmp_path))
    scratch.give_back(scratch.take('part'))  # there is no lock: age tells
    assert repr(scratch) == f'<Scratch {tmp_path}, 0 files>'
