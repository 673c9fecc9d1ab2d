"""Real ZEO 6.2, 5.4 and our client at a server in front of a database, as in tests/peers over a file."""
from __future__ import annotations

import sys

import pytest

from tests.peers import test_interplay as interplay
from tests.support.peer_env import OLD_ZEO, ZEO

pytestmark = [pytest.mark.long, pytest.mark.once]


@pytest.fixture
def keep_history():
    return True


@pytest.fixture(params=[(ZEO, 'zeo_clone'), pytest.param((OLD_ZEO, ZEO), marks=pytest.mark.skipif(
    sys.version_info >= (3, 12), reason='there no client of ZEO 5.4 can connect to anything'))],
    ids=['zeo_and_ours', 'zeo5_and_zeo'])
def clients(request, new_database_server, console):
    """Two prompts, each with a database open on the server."""
    address = new_database_server().addr
    prompts = [console(package) for package in request.param]
    for prompt in prompts:
        prompt.connect(address)
    return prompts


@pytest.mark.parametrize('test', [test for name, test in sorted(vars(interplay).items())
                                  if name.startswith('test_')
                                  and test.__code__.co_varnames[:test.__code__.co_argcount] == ('clients',)],
                         ids=lambda test: test.__name__)
def test_as_over_a_file(test, clients):
    test(clients)
