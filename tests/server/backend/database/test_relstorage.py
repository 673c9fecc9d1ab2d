"""Which RelStorages are served, and what is said of the others."""
from __future__ import annotations

import re

import pytest

from zeo_clone.commands import serve

OTHERS = (r'knows RelStorage on PostgreSQL and on SQLite \(one server\), and not MySQLAdapter, .* into a '
          'FileStorage .*zodbconvert')
DRIVER = 'knows PostgreSQL with the driver psycopg2, not psycopg: .* the line "driver psycopg2"'
GEVENT = 'knows SQLite with the driver sqlite3, not gevent sqlite3: .* the line "driver sqlite3"'


@pytest.fixture
def configured(tmp_path):
    """The path of a configuration with a RelStorage on that."""
    pytest.importorskip('relstorage', reason='RelStorage is not installed')

    def of(section, key=''):
        path = tmp_path / 'zeo.conf'
        path.write_text(f'%import relstorage\n<zeo>\naddress 127.0.0.1:0\n{key}\n</zeo>\n'
                        f'<relstorage main>\n{section}\n</relstorage>\n')
        return str(path)

    return of


@pytest.fixture
def refusal(configured, capsys):
    """Try to serve a RelStorage on that; what is said."""
    def of(section, *options):
        assert serve.main([*options, '-C', configured(section)]) != 0
        return capsys.readouterr().err

    return of


def test_a_relstorage_on_another_database_is_refused_with_what_to_do(refusal):
    """X4: one snapshot for all, conflicts that nobody tries again, and not a word of other processes."""
    said = refusal('<mysql>\ndb nowhere\n</mysql>', '--check')
    assert re.search(rf"\(RelStorage on MySQLAdapter\): this server {OTHERS}", said), said


@pytest.mark.parametrize(('section', 'expected'), [
    ('<postgresql>\ndriver psycopg\ndsn host=nowhere.invalid\n</postgresql>', DRIVER),
    ('<sqlite3>\ndriver gevent sqlite3\ndata-dir nowhere\n</sqlite3>', GEVENT)])
def test_another_driver_is_told_before_anything_is_asked(section, expected, refusal):
    """X4: by the check, too."""
    said = refusal(section, '--check')
    expected = rf"cannot serve storage 'main' \(RelStorage on [^)]+\): this server {expected}"
    assert re.search(expected, said), said


def test_shared_blobs_are_told_before_anything_is_asked(refusal):
    """X4: by the check, too."""
    said = refusal('shared-blob-dir true\n<postgresql>\ndsn host=nowhere.invalid\n</postgresql>', '--check')
    assert re.search(r"\(RelStorage on PostgreSQL\): its blobs are in a directory that is shared", said), said


def test_a_check_says_what_is_in_the_file_and_makes_nothing(configured, tmp_path, capsys):
    """T2."""
    from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage
    data = tmp_path / 'data'
    section = f'<sqlite3>\ndata-dir {data}\n</sqlite3>'
    assert serve.main(['--check', '-C', configured(section)]) == 0
    said = capsys.readouterr()
    assert re.search(r'SQLite [\d.]+, for one server; the database .*main\.sqlite3 has nothing of RelStorage',
                     said.out + said.err)
    assert not data.exists()
    options = Options(keep_history=False)
    RelStorage(Sqlite3Adapter(str(data), {}, options=options), options=options).close()
    assert serve.main(['--check', '-C', configured(section)]) != 0
    assert 'has a RelStorage without history, and keep-history says something else' in capsys.readouterr().err


def test_keys_for_several_servers_are_not_for_one(configured, tmp_path, capsys):
    """T1: SQLite has none."""
    path = configured(f'<sqlite3>\ndata-dir {tmp_path}/data\n</sqlite3>', 'poll-interval 1')
    assert serve.main(['--check', '-C', path]) != 0
    assert 'poll-interval in <zeo>: for databases only' in capsys.readouterr().err
