"""The PostgreSQL that benchmarks use comes, copies databases, and leaves nothing behind."""
from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from benchmarks import catalog, scaleout
from benchmarks.postgres import Cluster, PostgresError, find_programs
from benchmarks.runner import Suite
from benchmarks.sides import known, ours
from tests.benchmarks.test_suite import TINY, no_progress

pytestmark = pytest.mark.once

needs_postgres = pytest.mark.skipif(find_programs() is None, reason='PostgreSQL is not installed')


@needs_postgres
def test_cluster_runs_copies_a_database_and_vanishes():
    # Not below tmp_path, which another user, who runs it for root, cannot enter.
    with Cluster(tempfile.gettempdir()) as cluster:
        pid, template = cluster.pid, cluster.create()
        dsn = cluster.dsn(cluster.create(template))
        place = Path(dict(item.split('=') for item in dsn.split())['host'])
        assert command_line(pid)
        assert query(place, template, 'create table kept (n int); insert into kept values (42)') == ''
        copy = cluster.create(template)
        assert query(place, copy, 'select n from kept') == '42'
        cluster.drop(copy)
        with pytest.raises(PostgresError, match='createdb failed: .* does not exist'):
            cluster.create('no-such-template')
    assert not place.exists()
    assert not command_line(pid)


@needs_postgres
@pytest.mark.long
def test_servers_in_front_of_a_database_have_the_workloads_that_they_claim():
    pytest.importorskip('relstorage')
    pytest.importorskip('psycopg2')
    sides = [ours(), known('two-servers')]
    workloads = catalog.choose(['cold', 'commit-1', 'fan-out-30'])
    slow = TINY._replace(sync_ms=20.0)
    with Suite(workloads, sides, slow, tempfile.gettempdir(), no_progress) as suite:
        results = suite.run(1)
    assert not results.failures
    assert all(results.spread(workload, figure, sides[1]) for workload, figure in results.rows())
    commits = workloads[1]
    assert results.spread(commits, commits.figures[0], sides[1]).high <= 1 / 0.020, 'PostgreSQL waits, too'


@needs_postgres
@pytest.mark.long
def test_what_is_aimed_at_stands_beside_what_was_measured(capsys):
    pytest.importorskip('relstorage')
    pytest.importorskip('psycopg2')
    scaleout.main(['told', 'unsaid', 'hang', '--seconds', '0.2', '--objects', '200'])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ['told', 'told', 'unsaid', 'hang']
    assert all(re.search(r' \d+\.\d\d\d ms +at most [\d.]+( +missed)?$', line) for line in lines), lines


def command_line(pid):
    """Of a process; empty if it has ended."""
    try:
        return Path(f'/proc/{pid}/cmdline').read_bytes()
    except FileNotFoundError:
        return b''


def query(place, database, sql):
    """What psql prints of `sql`."""
    command = [str(find_programs() / 'psql'), '-h', str(place), '-U', 'postgres', '-Atq', '-c', sql, database]
    return subprocess.run(command, check=True, text=True, capture_output=True, timeout=60).stdout.strip()


def test_cluster_without_postgres_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr('benchmarks.postgres.find_programs', lambda: None)
    with pytest.raises(PostgresError, match=r'there is no initdb, neither in \$PATH nor below'):
        Cluster(tmp_path)
    assert list(tmp_path.iterdir()) == []
