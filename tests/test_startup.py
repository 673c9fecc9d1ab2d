from __future__ import annotations

import os

import pytest
from zc.lockfile import LockError

from zeo_clone.process import StartError
from zeo_clone.startup import StorageSource, open_storages


class Storage:
    closed = False

    def close(self):
        self.closed = True


def refuse(error):
    def open_storage():
        raise error
    return StorageSource('b', 'B.fs', open_storage)


def test_storages_are_opened_in_order_under_their_names():
    one, other = Storage(), Storage()
    found = open_storages([StorageSource('b', '', lambda: one), StorageSource('a', '', lambda: other)])
    assert list(found.items()) == [('b', one), ('a', other)]
    assert not one.closed


@pytest.mark.parametrize('error', [OSError(5, 'broken'), ValueError('odd'), SystemExit(0)])
def test_if_one_storage_cannot_be_opened_none_stays_open(error):
    storage = Storage()
    with pytest.raises((StartError, SystemExit)):
        open_storages([StorageSource('a', 'A.fs', lambda: storage), refuse(error)])
    assert storage.closed


def lock_error(tmp_path, content):
    path = tmp_path / "it's.lock"
    path.write_text(content)
    return LockError(f"Couldn't lock {str(path)!r}")


@pytest.mark.parametrize(('content', 'holder'), [
    (f' {os.getpid()}\n', f'process {os.getpid()} ('),
    ('', 'another process has it open (lock file '),
    (' not a number\n', 'another process has it open (lock file '),
    (f' {2**22 + 1}\n', 'another process has it open (lock file '),  # more than Linux has processes
])
def test_holder_of_a_lock_is_named_as_far_as_it_is_known(tmp_path, content, holder):
    """C14"""
    with pytest.raises(StartError) as caught:
        open_storages([refuse(lock_error(tmp_path, content))])
    text = str(caught.value)
    assert text.startswith(f"cannot open storage 'b' (B.fs): {holder}")
    assert f"(lock file {tmp_path}/it's.lock)" in text
    assert text.endswith('; stop that process, or serve another file')


def test_lock_of_another_kind_of_storage_is_reported_as_it_says():
    """C14"""
    with pytest.raises(StartError, match=r'another process has it open \(table busy\)'):
        open_storages([refuse(LockError('table busy'))])


def test_start_error_is_one_line():
    with pytest.raises(StartError) as caught:
        open_storages([refuse(ValueError('first line\n\tsecond  line'))])
    assert 'ValueError: first line second line; check' in str(caught.value)
