"""What fits into a process: connections by its descriptors, what waits by its memory."""
from __future__ import annotations

import errno
import os

import pytest

from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.server.clients.limits import check_room, find_limits, wanted_descriptors

GB, MB = 1 << 30, 1 << 20


class Small(Runtime):
    """A process that may have little."""

    def __init__(self, descriptors=1_000_000, memory=None):
        self.descriptors = descriptors
        self.memory = memory

    def descriptor_limits(self):
        return self.descriptors, self.descriptors

    def memory_size(self):
        return self.memory


@pytest.mark.parametrize(('descriptors', 'storages', 'connections', 'files'), [
    (1_000_000, 1, 10_000, 48), (256, 1, 182, 48), (256, 4, 134, 96), (100, 1, 35, 48), (64, 1, 15, 32),
    (64, 3, 9, 32), (8, 1, 1, 4)])
def test_connections_are_cut_to_descriptors(descriptors, storages, connections, files):
    """S13: less those that are kept for files."""
    limits = find_limits(Small(descriptors), storages, 10_000, 256 * MB)
    assert (limits.connections, limits.descriptors, limits.files) == (connections, descriptors, files)


@pytest.mark.parametrize('storages', [1, 3, 50])
@pytest.mark.parametrize('connections', [1, 7, 100, 10_000])
def test_with_the_descriptors_that_are_wanted_all_connections_fit(connections, storages):
    """S13."""
    wanted = wanted_descriptors(storages, connections)
    assert find_limits(Small(), storages, connections, MB, None, wanted).connections == connections


@pytest.mark.parametrize(('connections', 'strangers'), [(10_000, 2500), (182, 45), (2, 1), (1, 1)])
def test_strangers_have_a_quarter(connections, strangers):
    """S13."""
    assert find_limits(Small(), 1, connections, MB).strangers == strangers


def test_a_descriptor_that_files_need_is_none_for_a_connection():
    """S13: whoever took the others, a storage that opens many files for instance."""
    limits = find_limits(Small(256), 1, 10_000, MB)
    assert limits.admits(207)
    assert not limits.admits(208)


@pytest.mark.parametrize(('memory', 'frame_limit', 'given', 'limit', 'frame'), [
    (None, 256 * MB, None, GB, 256 * MB),            # unknown
    (64 * GB, 256 * MB, None, GB, 256 * MB),
    (GB, 256 * MB, None, 512 * MB, 256 * MB),        # half of a small machine
    (512 * MB, 256 * MB, None, 256 * MB, 128 * MB),  # a message is no more than half of that
    (64 * GB, GB, None, 2 * GB, GB),                 # one comes while another goes
    (64 * GB, 256 * MB, 100 * MB, 100 * MB, 50 * MB),
    (GB, MB, 5 * GB, 5 * GB, MB),                    # who says it means it
])
def test_what_may_wait_is_derived_from_memory_and_largest_message(memory, frame_limit, given, limit, frame):
    """S12."""
    limits = find_limits(Small(memory=memory), 1, 100, frame_limit, given)
    assert (limits.memory, limits.frame) == (limit, frame)


def test_a_file_for_a_client_leaves_some_for_the_storages():
    """S13: a client that opens iterators, say."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    enough = find_limits(Small(fd + 10), 1, 100, MB)
    check_room(REAL, enough)
    with pytest.raises(OSError, match=f'its limit is {fd + 1} descriptors') as caught:
        check_room(REAL, find_limits(Small(fd + 1), 1, 100, MB))
    assert caught.value.errno == errno.EMFILE
    less = find_limits(Small(fd + 40), 1, 100, MB)
    check_room(REAL, less)
    with pytest.raises(OSError, match='too many open files'):
        check_room(REAL, less._replace(files=40), long=True)
