"""A PostgreSQL that is thrown away: its own cluster, on a unix socket, with the settings that it comes with.

Out: data source names of databases.  Nothing listens on a network, and the superuser never runs it: for him
it is started as the user postgres, or nobody.  Belongs to one thread.
"""
from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

STEP_LIMIT_S = 120
DEBIAN = Path('/usr/lib/postgresql')  # versions of PostgreSQL, none of them in $PATH


#: PostgreSQL waits no longer before a sync, in milliseconds.
LONGEST_SYNC_MS = 100


def slow_disk(milliseconds):
    """Settings with which each sync of the log takes so much longer.

    PostgreSQL itself waits before it.  Transactions that come meanwhile share the sync that follows; with a
    disk that is slow they would wait for the one after that.  So it is rather better off.
    """
    return [f'commit_delay={round(milliseconds * 1000)}', 'commit_siblings=0'] if milliseconds else []


class PostgresError(Exception):
    """PostgreSQL would not do what it was told; the message has what it said."""


def find_programs():
    """The directory with initdb and pg_ctl, or None."""
    found = shutil.which('initdb')
    if found:
        return Path(found).resolve().parent
    versions = [path for path in DEBIAN.glob('*/bin') if (path / 'initdb').exists()]
    return max(versions, key=lambda path: float(path.parent.name), default=None)


def version(programs):
    """Of the PostgreSQL in that directory, like 15.18."""
    done = subprocess.run([str(programs / 'postgres'), '--version'], check=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True, timeout=STEP_LIMIT_S)
    return done.stdout.split()[2]


def lesser_user():
    """Arguments of `subprocess` that make a superuser an ordinary one; none for others."""
    if os.geteuid() != 0:
        return {}
    for name in ('postgres', 'nobody'):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {'user': entry.pw_uid, 'group': entry.pw_gid, 'extra_groups': []}
    raise PostgresError('PostgreSQL does not run as root, and there is no user postgres or nobody')


class Cluster:
    """A running cluster below `directory`, which that user must be able to enter.  A context manager.

    `settings` are other than PostgreSQL's own: ``fsync=off``.  With `primary`, another `Cluster`, it is a
    standby of that, up to `promote`.
    """

    def __init__(self, directory, settings=(), primary=None):
        self._settings = settings
        self._primary = primary
        self._programs = find_programs()
        if self._programs is None:
            raise PostgresError('there is no initdb, neither in $PATH nor below /usr/lib/postgresql')
        self._user = lesser_user()
        #: Where its socket is.
        self.directory = tempfile.mkdtemp(prefix='zeo-clone-postgres-', dir=directory)
        if self._user:
            os.chown(self.directory, self._user['user'], self._user['group'])
        self._data = os.path.join(self.directory, 'data')
        self._running = False
        self._databases = 0

    def __enter__(self):
        try:
            if self._primary is None:
                self._step('initdb', '-D', self._data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8',
                           '--no-locale', '--no-sync')
            else:
                self._step('pg_basebackup', '-D', self._data, '-h', self._primary.directory, '-U', 'postgres',
                           '--write-recovery-conf', '--checkpoint=fast', '--no-sync')
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self):
        """Let it run, again after a `crash`."""
        settings = ''.join(f' -c {setting}' for setting in self._settings)
        self._step('pg_ctl', '-D', self._data, '-l', os.path.join(self.directory, 'log'), '-w',
                   '-o', f"-k {self.directory} -c listen_addresses=''{settings}", 'start')
        self._running = True

    def crash(self):
        """Stop it at once, as a crash would, if it runs."""
        if self._running:
            self._running = False
            self._step('pg_ctl', '-D', self._data, '-m', 'immediate', '-w', 'stop')

    def promote(self):
        """Let the standby be a primary from now on."""
        self._step('pg_ctl', '-D', self._data, '-w', 'promote')

    @property
    def pid(self):
        """The process of which all others of the cluster are children."""
        return int(Path(self._data, 'postmaster.pid').read_text().split()[0])

    def create(self, template=None):
        """A new database, empty or like `template`; returns its name."""
        self._databases += 1
        name = f'bench{self._databases}'
        # Also while there is no standby yet that a commit would wait for.
        self._step('createdb', '-h', self.directory, '-U', 'postgres', '-T', template or 'template0',
                   '--maintenance-db', "dbname=postgres options='-c synchronous_commit=local'", name)
        return name

    def run(self, program, *arguments):
        """A program of PostgreSQL's, as the superuser of the cluster; what it says."""
        return self._step(program, '-h', self.directory, '-U', 'postgres', *arguments)

    def drop(self, name):
        self.run('dropdb', '--force', name)

    def dsn(self, name):
        """How psycopg2 finds the database `name`."""
        return f'host={self.directory} user=postgres dbname={name}'

    def _step(self, program, *arguments):
        # To a file: a server that pg_ctl starts would keep a pipe open.
        with tempfile.TemporaryFile('w+') as output:
            done = subprocess.run([str(self._programs / program), *arguments], cwd=self.directory,
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                  timeout=STEP_LIMIT_S, **self._user)
            output.seek(0)
            said = output.read()
        if done.returncode:
            raise PostgresError(f'{program} failed: {said[-2000:]}')
        return said
