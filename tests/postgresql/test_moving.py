"""From a FileStorage into the database and back, by the page's own files."""
from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import ZODB
from ZODB import DB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

from tests.docs.pages import blocks
from tests.support.tool_process import call
from zeo_clone.ClientStorage import ClientStorage

pytestmark = [pytest.mark.long, pytest.mark.once]

LIMIT_S = 120  # only what hangs meets it


@pytest.fixture
def keep_history():
    return True


@pytest.fixture
def convert(dsn, tmp_path):
    """Run `zodbconvert` with the page's file that has `section`, for this database."""
    def run(section):
        text, = (block.text for block in blocks('scale-out.md') if section in block.text)
        text, count = re.subn(r'dsn .*', f'dsn {dsn}', text)
        text, blobs = re.subn('/var/cache/zeo/blobs', 'cache', text)
        assert (count, blobs) == (1, 1)
        (tmp_path / 'convert.conf').write_text(text)
        call(Path(sys.executable).with_name('zodbconvert'), 'convert.conf', cwd=tmp_path)
    return run


def test_what_was_in_a_file_is_served_from_a_database_and_comes_back(convert, new_database_server, tmp_path):
    """X2, C25: with all transactions, their tids, and blobs."""
    database = ZODB.DB(FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs')))
    for number in range(3):
        with database.transaction() as connection:
            connection.root()[number] = Blob(b'%d' % number)
    database.close()
    convert('<relstorage destination>')
    server = new_database_server({'blob_dir': str(tmp_path / 'server'), 'shared_blob_dir': False})
    database = DB(ClientStorage(server.addr, wait_timeout=LIMIT_S, blob_dir=str(tmp_path / 'client')))
    try:
        with database.transaction() as connection:
            with connection.root()[2].open() as file:
                assert file.read() == b'2'
            connection.root()['served'] = True
        tids = [entry.tid for entry in database.storage.iterator()]
    finally:
        database.close()
    server.close()
    convert('<relstorage source>')
    database = ZODB.DB(FileStorage(str(tmp_path / 'New.fs'), blob_dir=str(tmp_path / 'new-blobs')))
    try:
        assert [entry.tid for entry in database.storage.iterator()] == tids and len(tids) == 5
        with database.transaction() as connection, connection.root()[0].open() as file:
            assert connection.root()['served'] and file.read() == b'0'
    finally:
        database.close()
