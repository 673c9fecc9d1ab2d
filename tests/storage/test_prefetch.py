"""Prefetch, end to end: every object in the cache afterwards, whatever its size."""
from __future__ import annotations

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64

from tests.storage.helpers import Recorder, commit, store
from tests.support import inside

#: Bytes of an object: most are small, some do not fit into a reply together with others.
SIZES = [300_000 if number % 40 == 5 else 20_000 if number % 3 else 5 for number in range(200)]


@pytest.fixture
def written(blob_server, client):
    """A client that has written objects of these sizes, and their tid."""
    writer = client(blob_server.address)
    return writer, commit(writer, *(store(p64(number + 1), bytes((number,)) * size)
                                    for number, size in enumerate(SIZES)))


def refuse(*args):
    raise AssertionError('the server was asked for a single object')


def test_prefetched_objects_need_no_further_request(blob_server, client, written, monkeypatch):
    """Also those that came in later parts of a reply."""
    writer, tid = written
    reader = client(blob_server.address, cache_size=50 << 20)
    oids = [p64(number + 1) for number in range(len(SIZES))]
    before = writer.server_status()['loads']
    monkeypatch.setattr(inside.link(reader).channel, 'load', refuse)
    reader.prefetch([*oids, p64(10_000)], maxtid)
    for number, (oid, size) in enumerate(zip(oids, SIZES, strict=True)):
        assert reader.loadBefore(oid, maxtid) == (bytes((number,)) * size, tid, None)
    monkeypatch.undo()
    assert writer.server_status()['loads'] == before + len(SIZES) + 1
    with pytest.raises(POSKeyError):
        reader.loadBefore(p64(10_000), maxtid)


def test_what_was_prefetched_ends_when_it_is_changed(blob_server, client, written, monkeypatch):
    """C2: by a commit that is told after the objects came."""
    writer, tid = written
    reader = client(blob_server.address)
    recorder = Recorder(reader)
    oids = [p64(1), p64(2)]
    reader.prefetch(oids, maxtid)
    reader.ping()  # answered after the objects
    changed = commit(writer, store(oids[0], b'changed', tid))
    assert recorder.of(changed) == {oids[0]}
    with monkeypatch.context() as patch:
        patch.setattr(inside.link(reader).channel, 'load', refuse)
        assert reader.loadBefore(oids[0], changed) == (bytes(5), tid, changed)
        assert reader.loadBefore(oids[1], maxtid) == (b'\1' * 20_000, tid, None)
    assert reader.loadBefore(oids[0], maxtid) == (b'changed', changed, None)
