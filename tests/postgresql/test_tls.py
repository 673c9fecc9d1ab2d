"""Connections to the database are encrypted, and its certificate is checked, if the dsn says so."""
from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from ZODB.utils import maxtid, p64

from benchmarks.postgres import Cluster, lesser_user
from tests.postgresql.test_servers import store
from tests.server.test_server import Wire
from tests.support.certificates import make_certificates
from tests.support.tool_process import run_tool

pytestmark = [pytest.mark.long, pytest.mark.once]

LIMIT_S = 120  # only what hangs meets it
CONFIGURATION = '''
%import relstorage
<zeo>
  address 127.0.0.1:0
</zeo>
<relstorage>
  <postgresql>
    driver psycopg2
    dsn {}
  </postgresql>
</relstorage>
'''


@pytest.fixture
def keep_history():
    return True


@pytest.fixture
def certificates(tmp_path):
    return make_certificates(tmp_path)


@pytest.fixture
def dsn(cluster, certificates):
    """Of a database of a cluster that has a certificate, and an address that nobody else has."""
    address = '127.{}.{}.{}'.format(*(random.randrange(1, 255) for _ in range(3)))
    # Not below tmp_path, which another user, who runs it for root, cannot enter.
    with Cluster(tempfile.gettempdir(), ['fsync=off', f'listen_addresses={address}']) as encrypted:
        for name in ('server.crt', 'server.key'):
            path = shutil.copy(certificates / 'server.pem', Path(encrypted.directory, 'data', name))
            os.chmod(path, 0o600)
            user = lesser_user()
            if user:
                os.chown(path, user['user'], user['group'])
        encrypted.run('psql', '-c', 'ALTER SYSTEM SET ssl = on', 'postgres')
        encrypted.crash()
        encrypted.start()
        yield (f'host=localhost hostaddr={address} user=postgres dbname={encrypted.create()} '
               f'sslmode=verify-full sslrootcert={certificates}/ca.pem')


def test_all_connections_are_encrypted_and_large_answers_come_through(new_database_server, query):
    data = os.urandom(3_000_000)
    with Wire(new_database_server().addr) as here, Wire(new_database_server().addr) as there:
        for wire in (here, there):
            wire.socket.settimeout(LIMIT_S)
            wire.register()
        assert store(here, 7, p64(1), data=data) == []
        tid = here.call('tpc_finish', 7)
        assert there.call('ping') is None
        assert there.call('loadBefore', p64(1), maxtid) == (data, tid, None)
    encrypted = query('SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) '
                      'WHERE datname = current_database()')
    assert len(encrypted) >= 5 and set(encrypted) == {(True,)}


def test_a_database_whose_certificate_is_by_somebody_else_is_not_used(dsn, certificates, tmp_path):
    (tmp_path / 'zeo.conf').write_text(CONFIGURATION.format(re.sub(r'ca\.pem', 'stranger.pem', dsn)))
    code, _, err = run_tool('runzeo', '--check', '-C', tmp_path / 'zeo.conf')
    assert code != 0 and 'certificate verify failed' in err
