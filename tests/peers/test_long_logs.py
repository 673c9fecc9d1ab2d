"""Undo logs and histories of thousands of entries, between real ZEO and us in both directions."""
from __future__ import annotations

import sys

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import z64

#: More than one slice of a log.
COUNT = 7000
ROOT = b'cpersistent.mapping\nPersistentMapping\n.}U\x04data}s.'


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    """A storage with so many revisions of the root object."""
    path = str(tmp_path_factory.mktemp('long') / 'Data.fs')
    storage, serial = FileStorage(path), z64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules['ZODB.FileStorage.FileStorage'], 'fsync', lambda fd: None)
        for number in range(COUNT):
            meta = TransactionMetaData(b'odd' if number % 2 else b'even', b'number %d' % number)
            storage.tpc_begin(meta)
            storage.store(z64, serial, ROOT, '', meta)
            storage.tpc_vote(meta)
            serial = storage.tpc_finish(meta)
    storage.close()
    return path


@pytest.fixture
def prompts(combination, hosts, path, console):
    host = hosts[combination[0]]
    served = host.start([{'kind': 'file', 'path': path}])
    prompts = [console(package) for package in combination[1:]]
    for prompt in prompts:
        prompt.connect(served.address)
    yield prompts
    for prompt in prompts:
        prompt.forget()
    host.stop(served)


@pytest.mark.once
def test_all_of_it_is_all_of_it_for_everybody(prompts):
    """L11: who asks for more than there is gets what there is."""
    for prompt in prompts:
        prompt.run('import sys')
        for log in ('storage.undoLog(0, sys.maxsize)', 'db.undoInfo(0, -sys.maxsize)'):
            assert prompt.run(f"log = {log}; len(log), len({{e['id'] for e in log}})") == (COUNT, COUNT)
        assert prompt.run("len(storage.undoInfo(0, sys.maxsize, {'user_name': b'odd'}))") == COUNT // 2
        assert prompt.run('len(storage.history(bytes(8), size=999999999999))') == COUNT
        assert prompt.run("storage.undoLog(6990, 1 << 70)[-1]['description']") == b'number 0'
