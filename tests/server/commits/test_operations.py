"""The operations of a transaction, in memory and in the spool file."""
from __future__ import annotations

import errno

import pytest
from ZODB.POSException import StorageError
from ZODB.utils import p64, z64

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.commits import operations
from zeo_clone.server.commits.operations import Operations, Uploads
from zeo_clone.server.vocabulary import Operation
from zeo_clone.zrpc.channel.memory import Share, unlimited


class CountingRuntime(Runtime):

    def __init__(self):
        self.files = []

    def temporary_file(self, directory=None):
        self.files.append(super().temporary_file(directory))
        return self.files[-1]


class FullDisk(Runtime):

    def temporary_file(self, directory=None):
        raise OSError(errno.ENOSPC, 'No space left on device')


def some(count, data=b'data'):
    return [Operation('store', p64(number), z64, data) for number in range(count)]


@pytest.fixture
def runtime():
    return CountingRuntime()


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(operations, 'SPOOL_SIZE', 2000)


def test_small_transactions_stay_in_memory(runtime):
    """L7."""
    kept = Operations(runtime, Uploads(None, None))
    for operation in some(1000, b'x' * 1000):
        kept.append(operation)
    assert runtime.files == []
    assert list(kept) == some(1000, b'x' * 1000)


def test_large_ones_go_to_a_file_and_come_back_in_order(runtime, small_memory):
    kept = Operations(runtime, Uploads(None, None))
    wanted = [*some(100), Operation('undo', extra=b'id'), Operation('restore', p64(1), z64, None, p64(2))]
    for operation in wanted:
        kept.append(operation)
    assert len(runtime.files) == 1
    assert list(kept) == wanted
    assert list(kept) == wanted, 'they can be read again'
    kept.close()


def test_the_memory_that_a_large_one_takes_is_bounded(runtime, small_memory):
    kept = Operations(runtime, Uploads(None, None))
    for operation in some(500):
        kept.append(operation)
    assert len(kept._recent) < 20
    kept.close()


def test_closing_closes_the_file(runtime, small_memory):
    """B2."""
    kept = Operations(runtime, Uploads(None, None))
    for operation in some(100):
        kept.append(operation)
    kept.close()
    kept.close()
    assert runtime.files[0].closed
    assert list(kept) == []


def test_no_space_in_the_temporary_directory_is_an_error_that_names_it(small_memory):
    """L7."""
    kept = Operations(FullDisk(), Uploads(None, None))
    with pytest.raises(OSError, match='temporary directory .+: No space left') as caught:
        for operation in some(100):
            kept.append(operation)
    assert caught.value.errno == errno.ENOSPC


def test_a_transaction_has_a_largest_size(runtime, monkeypatch):
    """S5b."""
    monkeypatch.setattr(operations, 'MAX_SIZE', 5000)
    kept = Operations(runtime, Uploads(None, None))
    with pytest.raises(StorageError, match='larger than 5000 bytes'):
        for operation in some(100):
            kept.append(operation)


def test_what_is_in_memory_is_counted_in_steps_and_given_back(runtime):
    """S12."""
    share = Share(unlimited())
    kept = Operations(runtime, Uploads(None, None), share)
    for operation in some(100, b'x' * 10_000):
        kept.append(operation)
        assert kept.size - operations.STEP < share.size <= kept.size
    kept.close()
    assert share.size == 0


def test_what_is_in_a_file_is_not_counted(runtime, small_memory):
    """S12."""
    share = Share(unlimited())
    kept = Operations(runtime, Uploads(None, None), share)
    kept.append(Operation('store', p64(1), z64, b'x' * 100_000))
    assert share.size == 0
    assert len(runtime.files) == 1
    kept.close()


def test_a_file_is_made_only_if_there_is_a_descriptor_for_it(runtime, small_memory):
    """S13."""
    def check_room():
        raise OSError(errno.EMFILE, 'too many')

    kept = Operations(runtime, Uploads(None, None), check_room=check_room)
    with pytest.raises(OSError, match='cannot keep the transaction .*: too many'):
        kept.append(Operation('store', p64(1), z64, b'x' * 100_000))
    assert runtime.files == []
