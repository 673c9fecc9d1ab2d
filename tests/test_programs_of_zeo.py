"""What programs written for ZEO use of it by name, beside what the other tests use (docs/operations.md)."""
from __future__ import annotations

import logging
import signal
import subprocess
import sys

import pytest
import zc.lockfile
from ZODB.blob import FilesystemHelper

from tests.support.runzeo_process import Runzeo
from zeo_clone import nagios
from zeo_clone.addresses import format_address
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.runzeo import ZEOOptions, ZEOServer

#: A start script of somebody's own.
SCRIPT = '''
import sys
import zeo_clone
zeo_clone.install_as_ZEO()
from ZEO.runzeo import ZEOOptions, ZEOServer
options = ZEOOptions()
options.realize(sys.argv[1:])
ZEOServer(options).main()
'''


def test_attributes_of_a_client_storage(server, client, tmp_path):
    storage = client(server.addr, name='main', blob_dir=str(tmp_path / 'blobs'))
    assert storage.__name__ == 'main'
    assert storage.blob_dir == str(tmp_path / 'blobs') and storage.shared_blob_dir is False
    assert isinstance(storage.fshelper, FilesystemHelper)
    assert storage.protocol_version == b'Z5'
    other = client(server.addr)
    assert other.__name__ == format_address(server.addr)
    assert other.blob_dir is other.fshelper is None
    assert type(other).__name__ == 'ClientStorage'


def test_status_waits_as_long_as_it_was_told(server, client):
    storage = client(server.addr, wait_timeout=60)
    assert storage.server_status(timeout=1)['connections'] == 1
    server.close()
    with pytest.raises(ClientDisconnected):
        storage.server_status(timeout=0)


def test_a_cache_that_is_taken_is_a_lock_error(server, client, tmp_path):
    """K2"""
    client(server.addr, cache=str(tmp_path / 'c.zec'))
    with pytest.raises(zc.lockfile.LockError, match='is in use by process'):
        ClientStorage(server.addr, cache=str(tmp_path / 'c.zec'))


def test_nagios_check(server, capsys, tmp_path):
    """It prints, and returns the exit code."""
    address = format_address(server.addr)
    for _ in range(2):
        assert nagios.check(address, True, str(tmp_path / 'status'), 'seconds') == 1
    assert 'connections=0' in (out := capsys.readouterr().out) and out.startswith("Empty storage '1'|")
    server.close()
    assert nagios.check(address, False, None, 'minutes') == 2
    assert capsys.readouterr().out.startswith("Can't connect ")


def test_options_and_server_of_runzeo(tmp_path):
    command = (sys.executable, '-W', 'error', '-c', SCRIPT)
    with Runzeo('-a', '127.0.0.1:0', '-f', tmp_path / 'Data.fs', command=command) as server:
        client = ClientStorage(server.ready().address)
        client.close()
        assert server.stop(signal.SIGTERM) == 0


def test_options_say_what_was_realized(tmp_path):
    options = ZEOOptions()
    with pytest.raises(ValueError, match='call realize'):
        ZEOServer(options).main()
    options.realize(['-a', 'localhost:9100', '-f', 'a.fs', '-f', 'b.fs', '--pid-file', 'p'])
    assert (options.address, options.pid_file) == (('localhost', 9100), 'p')
    assert [source.name for source in options.storages] == ['1', '2']


def test_wrong_options_end_the_program():
    done = subprocess.run([sys.executable, '-c', SCRIPT, '-C', 'no.conf'], capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith('runzeo: bad configuration: ')


def test_alarms_are_as_loud_as_in_zeo(server, client, tmp_path, caplog):
    """A cache file that was put aside is CRITICAL; the other two are tested where they arise."""
    (tmp_path / 'c.zec').write_bytes(b'nonsense' * 1000)
    client(server.addr, cache=str(tmp_path / 'c.zec'))
    assert [record.levelno for record in caplog.records
            if 'is not usable' in record.message] == [logging.CRITICAL]
