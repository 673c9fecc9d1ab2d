"""examples/cds/: the owner's server, the public face in front of it, and a client for each interface."""
from __future__ import annotations

import time
from xmlrpc.client import Fault, ServerProxy

import pytest
import transaction
from ZODB.POSException import ReadOnlyError

import zeo_clone
from tests.examples.programs import EXAMPLES, LIMIT_S, Program, run_example
from zeo_clone.addresses import parse_address
from zeo_clone.Exceptions import ClientDisconnected

pytestmark = pytest.mark.once

CSV = EXAMPLES / 'cds' / 'cds.csv'
BLUE = ['Joni Mitchell: Blue (1971)', 'Miles Davis: Kind of Blue (1959)']


@pytest.fixture(scope='module')
def owner(shared_server):
    """The owner's server, filled."""
    assert run_example('cds/fill.py', shared_server.address, CSV) == (0, '8 CDs added\n', '')
    return shared_server


class Public:
    """The public face: `address` for ZEO clients, `url` for XML-RPC."""

    def __init__(self, program):
        self.program = program
        self.address = parse_address(self._told('for ZEO clients: '))
        self.url = self._told('by XML-RPC: ')

    def _told(self, what):
        self.program.read_until(what)
        return self.program.read_until('\n').strip()


@pytest.fixture(scope='module')
def public(owner):
    with Program('cds/serve.py', owner.address, '--zeo', '127.0.0.1:0', '--http', '127.0.0.1:0') as program:
        yield Public(program)


@pytest.fixture
def world(public):
    """A connection to the public server, as the world has it."""
    connection = zeo_clone.connection(public.address, read_only=True)
    yield connection
    transaction.abort()
    connection.close()


def test_filling_twice_adds_nothing(owner):
    assert run_example('cds/fill.py', owner.address, CSV)[1] == '0 CDs added\n'


def test_a_file_that_is_none_is_refused(owner, tmp_path):
    path = tmp_path / 'bad.csv'
    path.write_text('artist,title,year\nSomebody,Something,soon\n')
    code, _, errors = run_example('cds/fill.py', owner.address, path)
    assert code == 1
    assert errors == (f"fill.py: {path} cannot be used: ValueError: invalid literal for int() with base 10: "
                      "'soon'\n")


def test_both_clients_find_the_same(public):
    by_zeo = run_example('cds/zeo_client.py', public.address, 'find', 'BLUE')
    by_xmlrpc = run_example('cds/xmlrpc_client.py', public.url, 'find', 'BLUE')
    assert by_zeo == by_xmlrpc == (0, '\n'.join(BLUE) + '\n', '')


def test_both_clients_are_refused_when_they_add_a_cd(public):
    code, output, errors = run_example('cds/zeo_client.py', public.address, 'add', 'X', 'Y', 2000)
    assert (code, output) == (1, '')
    assert errors == 'zeo_client.py: refused: this server is read-only; only the owner adds CDs\n'
    code, output, errors = run_example('cds/xmlrpc_client.py', public.url, 'add', 'X', 'Y', 2000)
    assert (code, output) == (1, '')
    assert errors == 'xmlrpc_client.py: refused: this collection is read-only; only its owner adds to it\n'
    assert run_example('cds/zeo_client.py', public.address, 'find', 'X: Y') == (0, '', '')


def test_the_refusal_is_the_servers(public, world):
    """S7: whoever does not promise to read only is not let in, and nobody packs."""
    with pytest.raises(ClientDisconnected, match='ReadOnlyError'):
        zeo_clone.DB(public.address, wait_timeout=0.3)
    with pytest.raises(ReadOnlyError, match='only the owner packs'):
        world.db().storage.pack()
    with ServerProxy(public.url) as server:
        with pytest.raises(Fault) as caught:
            server.add('X', 'Y', 2000)
        assert caught.value.faultCode == 403
        with pytest.raises(Fault, match='"remove" is not supported'):
            server.remove('Miles Davis', 'Kind of Blue')


def test_the_owner_adds_a_cd_with_the_same_command(owner):
    assert run_example('cds/zeo_client.py', owner.address, 'add', 'Own', 'Er', 2000) == (0, 'added\n', '')
    assert run_example('cds/zeo_client.py', owner.address, 'find', 'own: er')[1] == 'Own: Er (2000)\n'


def test_what_the_owner_adds_is_seen_in_both_ways(owner, public, world, examples_path, monkeypatch):
    """The clients stay; nobody connects anew.  The deadline is for hanging only."""
    monkeypatch.syspath_prepend(str(examples_path / 'cds'))
    import cdmodel
    assert [str(cd) for cd in cdmodel.find(world, 'blue')] == BLUE
    run_example('cds/zeo_client.py', owner.address, 'add', 'Eels', 'Novocaine', 1996)
    deadline = time.monotonic() + LIMIT_S
    while not cdmodel.find(world, 'novocaine'):
        assert time.monotonic() < deadline
        world.db().storage.ping()
        world.sync()
    with ServerProxy(public.url) as server:
        while not (found := server.find('novocaine')):
            assert time.monotonic() < deadline
    assert found == [{'artist': 'Eels', 'title': 'Novocaine', 'year': 1996}]


def test_the_world_costs_the_owner_nothing_once_the_caches_are_warm(owner, public, client):
    """Each client of the public server is new, with an empty cache; the owner's server is not asked."""
    storage = client(owner.address)

    def ask():
        for _ in range(2):
            run_example('cds/zeo_client.py', public.address, 'find')
            with ServerProxy(public.url) as server:
                assert len(server.find('')) >= 8
        return storage.server_status()['loads']

    assert ask() == ask()


def test_an_empty_database_is_explained(server_process):
    code, _, errors = run_example('cds/serve.py', server_process.address)
    assert code == 1
    assert errors == ("serve.py: the owner's database is empty, and we may not change that; "
                      "run fill.py first\n")


def test_a_path_is_no_address_for_xml_rpc():
    code, _, errors = run_example('cds/serve.py', './owner.sock', '--http', './http.sock')
    assert code == 2
    assert errors.endswith("argument --http: './http.sock' is a path; XML-RPC needs HOST:PORT\n")


def test_ctrl_c_ends_the_public_face(public):
    assert public.program.interrupt() == 0
    assert run_example('cds/xmlrpc_client.py', public.url, 'find')[0] == 1
