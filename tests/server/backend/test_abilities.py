"""What a storage can do, found out once, and which storages a server refuses."""
from __future__ import annotations

import re

import pytest
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IMVCCStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import Unsupported
from ZODB.tests.MVCCMappingStorage import MVCCMappingStorage
from zope.interface import alsoProvides

import zeo_clone
from tests.server.desk import Desk
from zeo_clone.commands.process import StartError
from zeo_clone.commands.startup import StorageSource, open_storages
from zeo_clone.configuration.filestorage import open_file
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.StorageServer import StorageServer

REFUSAL = 'shows each connection a snapshot of its own'


class Snapshots(MappingStorage):
    """Each instance of it would see the database as it was when it was asked for."""

    def __init__(self):
        super().__init__()
        alsoProvides(self, IMVCCStorage)
        self.closed = False

    def close(self):
        self.closed = True
        super().close()


@pytest.mark.parametrize('make', [Snapshots, MVCCMappingStorage])
def test_a_storage_of_snapshots_is_refused_in_one_line_that_says_why(make):
    """X4: clients would be stale for ever, without a word."""
    storage = make()
    with pytest.raises(StartError) as refused:
        open_storages([StorageSource('main', 'a place', lambda: storage)])
    text, kind = str(refused.value), type(storage).__name__
    assert re.match(rf"cannot serve storage 'main' \(a place\): a [\w.]*{kind} {REFUSAL}", text)
    assert '\n' not in text and refused.value.exit_code == 1


@pytest.mark.parametrize('group_commit', [True, False])
def test_a_file_that_the_end_of_a_pack_took_away_is_not_begun_anew(group_commit, tmp_path):
    """D4: nor is what ZODB, or an older server, has begun in its place."""
    path = tmp_path / 'Data.fs'
    FileStorage(str(path)).close()
    for name in 'Data.fs.old', 'Data.fs.pack':
        (tmp_path / name).touch()
    advice = r'a pack was cut short.*Rename .*Data\.fs\.old, which is whole, to .*Data\.fs, and remove'
    for _ in range(2):  # and not the next time either
        with pytest.raises(StartError, match=advice):
            open_storages([StorageSource('main', str(path), lambda: open_file(str(path), group_commit))])
    with pytest.raises(ValueError, match=advice):
        zeo_clone.server(str(path), threaded=True, zeo_conf={'group_commit': group_commit})
    assert path.stat().st_size == 4
    (tmp_path / 'Data.fs.pack').unlink()  # it is to be begun anew
    zeo_clone.server(str(path), threaded=True)[1]()


def test_what_was_opened_before_it_is_closed_and_nothing_is_written():
    """X4."""
    storage = Snapshots()
    with pytest.raises(StartError):
        open_storages([StorageSource('main', '', lambda: storage)])
    assert storage.closed and not storage._transactions


@pytest.mark.parametrize('create_root', [True, False])
def test_a_server_in_ones_own_process_refuses_it_too(create_root, monkeypatch):
    """X4."""
    storage = Snapshots()
    monkeypatch.setattr('zeo_clone.embedded._storage', lambda *_: storage)
    with pytest.raises(ValueError, match=REFUSAL):
        zeo_clone.server(threaded=True, create_root=create_root)
    assert storage.closed and not storage._transactions


def test_a_storage_server_refuses_it_before_anybody_is_served():
    """X4."""
    storage = Snapshots()
    with pytest.raises(ValueError, match=REFUSAL):
        StorageServer(('127.0.0.1', 0), {'1': MappingStorage(), '2': storage})
    assert not storage.closed, 'it is as it was'


def test_what_a_storage_can_do_is_asked_once():
    class Curious(MappingStorage):
        asked = 0

        def __getattribute__(self, name):
            if name in ('iterator', 'record_iternext', 'loadBlob', 'undoLog', 'getExtensionMethods'):
                type(self).asked += 1
            return super().__getattribute__(name)

    desk = Desk({'1': Curious()})
    asked = Curious.asked
    assert asked
    for _ in range(3):
        desk.connect().call('get_info')
    assert Curious.asked == asked


def test_abilities_of_storages(tmp_path):
    file, memory = FileStorage(str(tmp_path / 'Data.fs')), MappingStorage()
    with_file, with_memory = Abilities(file), Abilities(memory)
    assert with_file.file == str(tmp_path / 'Data.fs') and with_memory.file is None
    assert with_file.has_own_history and with_file.has_own_undo_log and not with_memory.has_own_history
    assert with_file.has('undoLog') and not with_memory.has('undoLog')
    assert with_file.supports_undo() and not with_memory.supports_undo()
    assert not Abilities(DemoStorage()).has_many_writers
    with pytest.raises(Unsupported, match='no undoLog'):
        with_memory.method('undoLog')
    file.close()
