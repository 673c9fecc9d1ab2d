"""Which RelStorages are served, and what is said of the others."""
from __future__ import annotations

import re

import pytest

from zeo_clone.commands import serve

REFUSAL = 'knows RelStorage on PostgreSQL, and not Sqlite3Adapter, .* into a FileStorage .*zodbconvert'


@pytest.fixture
def configuration(tmp_path):
    """Of a server of a RelStorage on SQLite."""
    pytest.importorskip('relstorage', reason='RelStorage is not installed')
    path = tmp_path / 'zeo.conf'
    path.write_text(f'%import relstorage\n<zeo>\naddress 127.0.0.1:0\n</zeo>\n'
                    f'<relstorage main>\n<sqlite3>\ndata-dir {tmp_path}/data\n</sqlite3>\n</relstorage>\n')
    return path


@pytest.mark.parametrize('options', [[], ['--check']])
def test_a_relstorage_on_sqlite_is_refused_with_what_to_do(configuration, options, capsys):
    """X4: one snapshot for all, conflicts that nobody tries again, and not a word of other processes."""
    assert serve.main([*options, '-C', str(configuration)]) != 0
    said = capsys.readouterr().err
    assert re.search(rf"cannot serve storage 'main' \(RelStorageFactory\): this server {REFUSAL}", said), said
    if options:  # who only asks makes nothing
        assert not (configuration.parent / 'data').exists()
