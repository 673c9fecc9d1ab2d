"""Which RelStorages are served, and what is said of the others."""
from __future__ import annotations

import re

import pytest

from zeo_clone.commands import serve

SQLITE = 'knows RelStorage on PostgreSQL, and not Sqlite3Adapter, .* into a FileStorage .*zodbconvert'
DRIVER = 'knows PostgreSQL with the driver psycopg2, not psycopg: .* the line "driver psycopg2"'


@pytest.fixture
def refusal(tmp_path, capsys):
    """Try to serve a RelStorage on that; what is said."""
    pytest.importorskip('relstorage', reason='RelStorage is not installed')

    def of(section, *options):
        path = tmp_path / 'zeo.conf'
        path.write_text(f'%import relstorage\n<zeo>\naddress 127.0.0.1:0\n</zeo>\n'
                        f'<relstorage main>\n{section}\n</relstorage>\n')
        assert serve.main([*options, '-C', str(path)]) != 0
        return capsys.readouterr().err

    return of


@pytest.mark.parametrize('options', [[], ['--check']])
def test_a_relstorage_on_sqlite_is_refused_with_what_to_do(refusal, tmp_path, options):
    """X4: one snapshot for all, conflicts that nobody tries again, and not a word of other processes."""
    said = refusal(f'<sqlite3>\ndata-dir {tmp_path}/data\n</sqlite3>', *options)
    assert re.search(rf"cannot serve storage 'main' \(RelStorageFactory\): this server {SQLITE}", said), said
    if options:  # who only asks makes nothing
        assert not (tmp_path / 'data').exists()


def test_another_driver_is_told_before_anything_is_asked(refusal):
    """X4: by the check, too."""
    said = refusal('<postgresql>\ndriver psycopg\ndsn host=nowhere.invalid\n</postgresql>', '--check')
    assert re.search(rf"cannot serve storage 'main' \(RelStorageFactory\): this server {DRIVER}", said), said
