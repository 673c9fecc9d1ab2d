from __future__ import annotations

import errno
import logging
import os
import socket
import threading

import pytest
from zc.lockfile import LockError
from ZODB.MappingStorage import MappingStorage

from zeo_clone.commands import serve, startup
from zeo_clone.commands.process import StartError
from zeo_clone.commands.startup import StorageSource, open_storages, patience


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


@pytest.mark.parametrize(('number', 'advice'), [
    (errno.ENOSPC, 'make room on the disk'),
    (errno.EDQUOT, 'make room on the disk'),
    (errno.EACCES, 'check that the path is right and that this user may write there')])
def test_what_to_do_depends_on_the_error_of_the_disk(number, advice):
    """C14"""
    with pytest.raises(StartError, match=f'; {advice}$'):
        open_storages([refuse(OSError(number, os.strerror(number)))])


def lock_error(tmp_path, content):
    path = tmp_path / "it's.lock"
    path.write_text(content)
    return LockError(f"Couldn't lock {str(path)!r}")


@pytest.mark.parametrize(('content', 'holder'), [
    (f' {os.getpid()}\n', f'process {os.getpid()} ('),
    ('', 'another process has it open (lock file '),
    (' not a number\n', 'another process has it open (lock file '),
    (f' {2**22 + 1}\n', 'another process has it open (lock file '),  # more than Linux has processes
], ids=['running', 'empty', 'no number', 'not running'])
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


def test_keys_for_databases_without_a_database_are_told_before_a_storage_is_made(tmp_path, capsys):
    """X4: by `check` as well."""
    (tmp_path / 'zeo.conf').write_text(f'<zeo>\naddress 0\npoll-interval 1\n</zeo>\n'
                                       f'<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n')
    for options in [], ['--check']:
        assert serve.main([*options, '-C', str(tmp_path / 'zeo.conf')]) == 2
    assert 'bad configuration: poll-interval in <zeo>: for databases only' in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['zeo.conf']


def test_what_a_server_refuses_to_serve_is_a_line():
    """X4"""
    with pytest.raises(StartError, match='cannot serve: poll-interval: for databases only'):
        startup.make_server(('127.0.0.1', 0), {'1': MappingStorage()}, {'poll_interval_s': 1.0})


def test_a_database_that_is_away_is_not_called_damaged():
    """L8"""
    def opens():
        raise type('OperationalError', (Exception,), {'__module__': 'psycopg2'})('no server\n\tat /nowhere\n')

    with pytest.raises(StartError, match='OperationalError: no server at /nowhere; check its section'):
        open_storages([StorageSource('main', 'RelStorage', opens)])


@pytest.mark.parametrize('error', [
    ModuleNotFoundError("No module named 'nope'"),
    type('UnknownDriverError', (Exception,), {'__module__': 'relstorage.adapters.interfaces'})('psycopg3')])
def test_a_storage_that_needs_what_is_not_installed_is_not_called_damaged(error):
    """C14: of a `packer`, or of RelStorage's `driver`."""
    def opens():
        raise error

    with pytest.raises(StartError, match=r'(nope.|psycopg3); check its section, and that what it names is'):
        open_storages([StorageSource('1', 'Data.fs', opens)])


def test_start_error_is_one_line():
    with pytest.raises(StartError) as caught:
        open_storages([refuse(ValueError('first line\n\tsecond  line'))])
    assert 'ValueError: first line second line; check' in str(caught.value)


# -- a long wait --------------------------------------------------------------------------------------

def test_size_of_a_file_is_told_before_it_is_opened(tmp_path, caplog):
    caplog.set_level('INFO')
    path = tmp_path / 'Data.fs'
    path.write_bytes(b'x' * 2560)
    source = StorageSource('1', str(path), Storage)
    open_storages([source])
    (tmp_path / 'Data.fs.index').write_text('')
    open_storages([source])
    open_storages([source._replace(place=str(tmp_path / 'new.fs'))])
    open_storages([source._replace(place='MappingStorageFactory')])
    assert [record.getMessage() for record in caplog.records] == [
        f"opening storage '1' ({path}, 2.5 KB; there is no {path}.index, so all of it must be read)",
        f"opening storage '1' ({path}, 2.5 KB)",
        f"opening storage '1' ({tmp_path}/new.fs)",
        "opening storage '1' (MappingStorageFactory)"]


def test_a_long_wait_is_told_to_the_log_and_to_the_service_manager(tmp_path, caplog, monkeypatch):
    caplog.set_level('INFO')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / 'notify'))
        manager.settimeout(60)
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        with patience('counting sheep', 0.01):
            told = manager.recv(1000).decode().splitlines()
    assert told == ['STATUS=still counting sheep: 0 s', 'EXTEND_TIMEOUT_USEC=60000000']
    assert caplog.records[0].getMessage() == 'still counting sheep: 0 s'


def test_waiting_ends_also_when_opening_fails():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), patience('failing', 60):
        assert threading.active_count() == before + 1
        1 / 0  # noqa: B018
    assert threading.active_count() == before


def test_a_storage_that_takes_long_to_open_is_waited_for_aloud(monkeypatch):
    monkeypatch.setattr(startup, 'PATIENCE_S', 0.01)
    told = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("still opening storage '1' (Slow): "):
                told.set()

    def open_slowly():
        assert told.wait(60)
        return Storage()

    listener = Listener()
    startup.logger.addHandler(listener)
    monkeypatch.setattr(startup.logger, 'level', logging.INFO)
    try:
        open_storages([StorageSource('1', 'Slow', open_slowly)])
    finally:
        startup.logger.removeHandler(listener)
