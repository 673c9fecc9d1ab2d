"""How the FileStorages of a configuration are opened."""
from __future__ import annotations

import contextlib
import errno

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageError

import zeo_clone
from zeo_clone.commands.process import StartError
from zeo_clone.commands.serve import command_line, read_settings
from zeo_clone.commands.startup import close_storages, open_storages
from zeo_clone.configuration.filestorage import open_file, packer
from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.groupcommit import GroupCommitStorage


def opened(tmp_path, keys, storages, *options):
    """The storages of a zeo.conf with these `keys` in <zeo>, closed again."""
    (tmp_path / 'zeo.conf').write_text(f'<zeo>\naddress 127.0.0.1:0\n{keys}\n</zeo>\n{storages}')
    settings = read_settings(command_line().parse_args(['-C', str(tmp_path / 'zeo.conf'), *options]))
    found = [source.open() for source in settings.sources]
    for storage in found:
        storage.close()
    return found


@pytest.mark.parametrize(('keys', 'kind'), [('', GroupCommitStorage),
                                            ('group-commit true', GroupCommitStorage),
                                            ('group-commit false', FileStorage)])
def test_key_says_how_a_file_is_opened(tmp_path, keys, kind):
    """D2: a section, and a file on the command line."""
    section = f'<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n'
    assert [type(storage) for storage in opened(tmp_path, keys, section)] == [kind]
    assert [type(storage) for storage in opened(tmp_path, keys, section, '-f', f'{tmp_path}/a.fs')] == [kind]


def test_a_file_without_a_configuration(tmp_path):
    """D2."""
    settings = read_settings(command_line().parse_args(['-f', str(tmp_path / 'Data.fs')]))
    with contextlib.closing(settings.sources[0].open()) as storage:
        assert type(storage) is GroupCommitStorage


def test_all_keys_are_passed_on(tmp_path):
    storage, = opened(tmp_path, '', f'<filestorage>\npath {tmp_path}/Data.fs\nblob-dir {tmp_path}/blobs\n'
                      'quota 5MB\npack-gc false\npack-keep-old false\n'
                      'packer tests.configuration.test_filestorage.a_packer\n</filestorage>\n')
    assert (storage.blob_dir, storage._quota) == (str(tmp_path / 'blobs'), 5 << 20)
    assert (storage._pack_gc, storage.pack_keep_old) == (False, False)
    assert storage._pack_file is a_packer
    again, = opened(tmp_path, '', f'<filestorage>\npath {tmp_path}/Data.fs\nread-only true\n</filestorage>\n')
    assert again.isReadOnly()


def test_a_file_below_another_storage_is_opened_by_zodb(tmp_path):
    """D2: that other storage tells when a commit is durable."""
    storage, = opened(tmp_path, '', '<demostorage>\n<filestorage changes>\n'
                      f'path {tmp_path}/Data.fs\n</filestorage>\n</demostorage>\n')
    assert type(storage.changes) is FileStorage


SECTIONS = pytest.mark.parametrize('section', [
    '<filestorage>\npath {0}/Data.fs\nblob-dir {0}/blobs\n{1}</filestorage>\n',
    '<demostorage>\n<filestorage changes>\npath {0}/Data.fs\nblob-dir {0}/blobs\n{1}</filestorage>\n'
    '</demostorage>\n'], ids=['alone', 'below'])


@SECTIONS
@pytest.mark.parametrize('key', ['group-commit true', 'group-commit false'])
@pytest.mark.parametrize(('left', 'message'), [
    (['Data.fs.old', 'Data.fs.pack'], r'a pack was cut short .*Rename .*Data\.fs\.old'),
    ([], r'there is no file .*Data\.fs, but there are blobs in .*blobs, which .*mounted\?')])
def test_blobs_outlive_a_file_that_is_missing(tmp_path, section, key, left, message):
    """D4: between the two renames of a pack; while its disk is not mounted.  ZODB begins a new file then, and
    removes all blobs."""
    for name in left:
        (tmp_path / name).touch()
    (tmp_path / 'blobs' / '0x00').mkdir(parents=True)
    (tmp_path / 'blobs' / '0x00' / 'a.blob').touch()
    (tmp_path / 'zeo.conf').write_text(f'<zeo>\naddress 127.0.0.1:0\n{key}\n</zeo>\n'
                                       + section.format(tmp_path, ''))
    settings = read_settings(command_line().parse_args(['-C', str(tmp_path / 'zeo.conf')]))
    with pytest.raises(StartError, match=message):
        open_storages(settings.sources)
    assert not (tmp_path / 'Data.fs').exists()
    assert (tmp_path / 'blobs' / '0x00' / 'a.blob').exists()


@SECTIONS
@pytest.mark.parametrize('key', ['group-commit true', 'group-commit false'])
def test_a_section_that_says_so_makes_a_new_file_where_blobs_are(tmp_path, section, key):
    """As ZODB does."""
    (tmp_path / 'blobs' / '0x00').mkdir(parents=True)
    (tmp_path / 'blobs' / '0x00' / 'a.blob').touch()
    (tmp_path / 'zeo.conf').write_text(f'<zeo>\naddress 127.0.0.1:0\n{key}\n</zeo>\n'
                                       + section.format(tmp_path, 'create true\n'))
    settings = read_settings(command_line().parse_args(['-C', str(tmp_path / 'zeo.conf')]))
    close_storages(open_storages(settings.sources))
    assert (tmp_path / 'Data.fs').exists()
    assert not (tmp_path / 'blobs' / '0x00').exists()


@SECTIONS
def test_blobs_outlive_a_missing_file_in_a_server_of_ones_own(tmp_path, section):
    """D4"""
    (tmp_path / 'blobs' / '0x00').mkdir(parents=True)
    (tmp_path / 'blobs' / '0x00' / 'a.blob').touch()
    with pytest.raises(StorageError, match='there are blobs in '):
        zeo_clone.server(storage_conf=section.format(tmp_path, ''))
    assert not (tmp_path / 'Data.fs').exists()
    assert (tmp_path / 'blobs' / '0x00' / 'a.blob').exists()


class Unreadable(Runtime):
    """Directories are another user's."""

    def listdir(self, path):
        raise PermissionError(errno.EACCES, 'Permission denied', path)


def test_a_blob_directory_that_cannot_be_read_is_not_removed(tmp_path):
    """D4: such as a new disk with its lost+found."""
    (tmp_path / 'blobs').mkdir()
    with pytest.raises(StorageError, match='Permission denied.*name another blob directory'):
        GroupCommitStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'), runtime=Unreadable())
    assert (tmp_path / 'blobs').exists()
    assert not (tmp_path / 'Data.fs').exists()


def test_a_program_is_refused_such_a_file_too(tmp_path):
    """D4"""
    (tmp_path / 'Data.fs.old').touch()
    (tmp_path / 'Data.fs.pack').touch()
    with pytest.raises(StorageError, match='a pack was cut short'):
        open_file(str(tmp_path / 'Data.fs'), group_commit=False)
    assert not (tmp_path / 'Data.fs').exists()


@pytest.mark.parametrize('group_commit', [True, False])
def test_a_program_keeps_the_blobs_of_a_missing_file_unless_it_makes_a_new_one(tmp_path, group_commit):
    """D4"""
    path, blob_dir = str(tmp_path / 'Data.fs'), tmp_path / 'blobs'
    open_file(path, group_commit, blob_dir=str(blob_dir)).close()
    (tmp_path / 'Data.fs').unlink()
    (blob_dir / '0x00').mkdir()
    (blob_dir / '0x00' / 'a.blob').touch()
    with pytest.raises(StorageError, match='there are blobs in '):
        open_file(path, group_commit, blob_dir=str(blob_dir))
    assert (blob_dir / '0x00' / 'a.blob').exists()
    open_file(path, group_commit, blob_dir=str(blob_dir), create=True).close()
    assert not (blob_dir / '0x00' / 'a.blob').exists()


def a_packer(storage, referencesf, stop, gc):
    """Packs nothing."""


def test_packer_is_a_name_or_an_expression():
    """As in ZODB's own section."""
    assert packer('tests.configuration.test_filestorage.a_packer') is a_packer
    assert packer('operator:itemgetter(1)')([1, 2]) == 2


@pytest.mark.parametrize(('zeo_conf', 'kind'), [
    (None, GroupCommitStorage), ({'group-commit': False}, FileStorage), ('group-commit false', FileStorage)])
def test_a_server_in_ones_own_process(tmp_path, zeo_conf, kind, monkeypatch):
    """D2."""
    made = []
    for each in FileStorage, GroupCommitStorage:
        init = each.__init__

        def wrapped(self, *args, init=init, **keywords):
            made.append(type(self))
            init(self, *args, **keywords)

        monkeypatch.setattr(each, '__init__', wrapped)
    _, stop = zeo_clone.server(str(tmp_path / 'Data.fs'), zeo_conf=zeo_conf)
    stop()
    assert made[0] is kind


@pytest.mark.parametrize('value', ['perhaps', ''])
def test_a_wrong_value_is_refused(tmp_path, value):
    from zeo_clone.commands.process import StartError
    with pytest.raises(StartError, match='zeo.conf, line 3'):
        opened(tmp_path, f'group-commit {value}', f'<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n')
