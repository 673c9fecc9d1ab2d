"""Who is measured: zeo_clone, and the peers that were named or that are found on this machine.

Out: `Side`, in the order in which they are shown, ours first.  Peers live in environments of their own, which
are made once (see ``tests/support/peer_env.py``); what cannot be made is reported and left out, unless it was
asked for by name.
"""
from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from benchmarks.postgres import find_programs, version
from tests.support.json_process import child_environment
from tests.support.peer_env import PeerEnvironmentError, environment_python, peer_python
from tests.support.server_process import package_path

OURS = 'zeo_clone'
DEFAULT_PEERS = ('zeo6', 'relstorage', 'filestorage')
CLIENT, RELSTORAGE, FILE = 'client', 'relstorage', 'file'
#: Clients of servers of ours in front of RelStorage.
DATABASE = 'database'
IN_POSTGRES = (RELSTORAGE, DATABASE)
#: By name: how many such servers, their options, what the label says.
SERVERS = {'one-server': (1, {}, '1 server on PostgreSQL'),
           'two-servers': (2, {}, '2 servers on PostgreSQL'),
           'no-server-cache': (1, {'server_cache_size': 0}, '1 server on PostgreSQL, no cache')}
PROBE_LIMIT_S = 60
#: Prints the versions of the packages that matter here, by name.
PROBE = """
import json
from importlib import metadata
found = {}
for name in ('zeo_clone', 'ZEO', 'uvloop', 'RelStorage', 'ZODB'):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class SideError(Exception):
    """A peer that was asked for cannot be measured; the message says why."""


class Side(NamedTuple):
    """One column of the table.

    `kind` is CLIENT, DATABASE, RELSTORAGE or FILE; `package` is what its processes import, from `path` if
    there is one; `servers` of them serve a database, with `options`.
    """

    name: str
    label: str
    kind: str
    python: str
    package: str | None = None
    path: str | None = None
    servers: int = 1
    options: dict[str, int] = {}


def ours():
    return Side(OURS, OURS, CLIENT, sys.executable, OURS, package_path())


def probe(python):
    """The versions that the interpreter `python` finds.  Raises SideError."""
    try:
        done = subprocess.run([python, '-c', PROBE], env=child_environment(), timeout=PROBE_LIMIT_S,
                              text=True, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SideError(f'{python}: {error}') from error
    if done.returncode:
        raise SideError(f'{python}: {done.stderr}')
    return json.loads(done.stdout)


def needed_postgres(name):
    """The version of PostgreSQL, without which RelStorage cannot be measured.  Raises SideError."""
    programs = find_programs()
    if programs is None:
        raise SideError(f'{name}: RelStorage needs PostgreSQL on this machine (Debian: postgresql)')
    return version(programs)


def from_python(name, python):
    """The side `name`, which is what is installed for the interpreter `python`."""
    versions = probe(python)
    if 'RelStorage' in versions:
        label = f'RelStorage {versions["RelStorage"]}, PostgreSQL {needed_postgres(name)}'
        return Side(name, label, RELSTORAGE, python)
    if 'ZEO' in versions:
        uvloop = ' + uvloop' if 'uvloop' in versions else ''
        return Side(name, f'ZEO {versions["ZEO"]}{uvloop}', CLIENT, python, 'ZEO')
    if OURS in versions:
        return Side(name, f'{OURS} {versions[OURS]}', CLIENT, python, OURS)
    raise SideError(f'{name}: {python} has none of ZEO, RelStorage and zeo_clone')


def known(name):
    """The side with one of the names of DEFAULT_PEERS.  Raises SideError, PeerEnvironmentError."""
    if name == 'zeo6':
        try:
            python = peer_python('uvloop')
        except PeerEnvironmentError:
            python = peer_python()  # uvloop is not for every Python; the label shows that it is missing
        return from_python(name, python)
    if name == 'relstorage':
        needed_postgres(name)
        return from_python(name, environment_python('relstorage', ['RelStorage[postgresql]']))
    if name in SERVERS:
        needed_postgres(name)
        if 'RelStorage' not in probe(sys.executable):
            raise SideError(f"{name}: RelStorage is not installed here: pip install 'zeo_clone[postgresql]'")
        servers, options, label = SERVERS[name]
        return ours()._replace(name=name, label=f'{OURS}, {label}', kind=DATABASE, servers=servers,
                               options=options)
    if name == 'filestorage':
        return Side(name, f'FileStorage {probe(sys.executable)["ZODB"]}', FILE, sys.executable)
    raise SideError(f'unknown peer {name!r}: give NAME=PATH, or one of '
                    f'{", ".join([*DEFAULT_PEERS, *SERVERS])}')


def find(named, complain):
    """Ours and the peers: those `named` (``NAME=PATH`` or a known name), else all that can be had.

    `complain` is called with a line for each that cannot; one that was named raises SideError.
    """
    found = [ours()]
    for name in named or DEFAULT_PEERS:
        name, _, path = name.partition('=')
        try:
            found.append(from_python(name, path) if path else known(name))
        except (SideError, PeerEnvironmentError) as error:
            if named:
                raise SideError(str(error)) from error
            complain(f'left out: {error}')
    return found
