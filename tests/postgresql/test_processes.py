"""Servers in front of one PostgreSQL as operators have them: the page's files, processes, kill -9."""
from __future__ import annotations

import pickle
import re
import shlex
import signal

import pytest
import ZODB.config
from ZODB import DB
from ZODB.utils import maxtid, p64, z64

from tests.docs.pages import blocks
from tests.server.test_server import Wire
from tests.support.tool_process import run_tool
from zeo_clone.addresses import format_address
from zeo_clone.ClientStorage import ClientStorage

pytestmark = pytest.mark.long

PATIENCE_S = 120  # only what hangs meets it


@pytest.fixture
def keep_history():
    return True


def test_files_on_the_page_serve_a_database_at_two_servers(configuration, new_process):
    """T1: the check asks the database, two servers serve it, a client uses both."""
    code, out, err = run_tool('runzeo', '--check', '-C', configuration)
    assert (code, err) == (0, '')
    assert re.search(r"storage 'main': PostgreSQL .* answers; the database \w+ has nothing of RelSto", out)
    servers = new_process(), new_process()
    text, = (block.text for block in blocks('scale-out.md')
             if block.language == 'text' and '<clientstorage>' in block.text)
    for name, server in zip(('zeo1:9100', 'zeo2:9100'), servers, strict=True):
        text = text.replace(name, format_address(server.address))
    database = ZODB.config.databaseFromString(text)
    try:
        with database.transaction() as connection:
            connection.root()['site'] = 'here'
        other = DB(ClientStorage(servers[1].address, storage='main', wait_timeout=PATIENCE_S))
        try:
            other.storage.sync()
            with other.transaction() as connection:
                assert connection.root()['site'] == 'here'
        finally:
            other.close()
    finally:
        database.close()
    assert 'a RelStorage with history' in run_tool('runzeo', '--check', '-C', configuration)[1]
    assert [server.stop() for server in servers] == [0, 0]


def test_a_user_who_owns_the_database_and_nothing_else_is_enough(configuration, new_process, cluster):
    """T1: the page's commands for the database."""
    text, = (block.text for block in blocks('scale-out.md') if block.words == ('database',))
    for line in text.splitlines():
        cluster.run(*shlex.split(line))
    try:
        of_user = re.sub(r'user=\S+ dbname=\S+', 'user=zeo dbname=site', configuration.read_text())
        configuration.write_text(of_user)
        assert 'user=zeo' in of_user
        assert run_tool('runzeo', '--check', '-C', configuration)[0] == 0
        server = new_process()
        database = DB(ClientStorage(server.address, storage='main', wait_timeout=PATIENCE_S))
        try:
            for number in range(2):
                with database.transaction() as connection:
                    connection.root()['number'] = number
            database.pack()
        finally:
            database.close()
        assert server.stop() == 0
    finally:
        cluster.drop('site')
        cluster.run('dropuser', 'zeo')


def test_a_check_says_that_the_database_is_not_there(configuration):
    """T2"""
    configuration.write_text(re.sub(r'dbname=\w+', 'dbname=nowhere', configuration.read_text()))
    code, out, err = run_tool('runzeo', '--check', '-C', configuration)
    assert code != 0 and out == ''
    assert re.search("cannot serve storage 'main' .*database \"nowhere\" does not exist; check its", err)


def test_a_server_that_is_stopped_and_comes_back_commits_nothing_late(new_process):
    """X2: its client has asked the other server meanwhile, and was told that nothing was committed."""
    oid = p64(7)
    servers = [new_process() for _ in range(2)]
    with Wire(servers[0].address) as here, Wire(servers[1].address) as there:
        for wire in (here, there):
            wire.socket.settimeout(PATIENCE_S)
            assert wire.receive() == b'Z5'
            wire.send(b'Z5')
            wire.call('register', 'main', False)
            wire.call('identify', b'a client' * 2, 0)
        here.oneway('tpc_begin', 5, b'', b'', {}, None, ' ')
        here.oneway('storea', oid, z64, b'data', 5)
        assert here.call('vote', 5) == []
        servers[0].send(signal.SIGSTOP)
        here.send(pickle.dumps((2, False, 'tpc_finish', (5,)), 3))
        assert there.call('commit_outcome', 5) == ('not committed', None)
        servers[0].send(signal.SIGCONT)
        while (answer := pickle.loads(here.receive()))[0] != 2:
            pass
        assert answer[1] == 2 and 'asked another server' in str(answer)
        with pytest.raises(AssertionError, match='POSKeyError'):
            there.call('loadBefore', oid, maxtid)
