"""Every combination of our server and clients with real ZEO 6.2 that has at least one of each."""
from __future__ import annotations

import pytest

from tests.support.server_process import ServerHost

OURS, ZEO = 'zeo_clone', 'ZEO'
#: (server, first client, second client)
COMBINATIONS = [
    (OURS, ZEO, ZEO),
    (OURS, ZEO, OURS),
    (OURS, OURS, ZEO),
    (ZEO, OURS, OURS),
    (ZEO, ZEO, OURS),
    (ZEO, OURS, ZEO),
]


def named(combination):
    server, first, second = ('ours' if package == OURS else 'zeo' for package in combination)
    return f'{server}_serves_{first}_and_{second}'


@pytest.fixture(scope='module')
def hosts():
    """A server process of each package; the servers in it belong to the tests."""
    with ServerHost(OURS) as ours, ServerHost(ZEO) as zeo:
        yield {OURS: ours, ZEO: zeo}


@pytest.fixture(params=COMBINATIONS, ids=named)
def combination(request):
    """The packages of server, first and second client."""
    return request.param


@pytest.fixture
def serve(combination, hosts, tmp_path):
    """Start the combination's server over a FileStorage: ``serve(**options)`` -> address."""
    host = hosts[combination[0]]
    started = []

    def start(**options):
        path = str(tmp_path / f'{len(started)}.fs')
        started.append(host.start([{'kind': 'file', 'path': path}], **options))
        return started[-1].address

    yield start
    for served in started:
        host.stop(served)


@pytest.fixture
def clients(combination, serve, console):
    """Two prompts, each with a database open on the combination's server."""
    address = serve()
    prompts = [console(package) for package in combination[1:]]
    for prompt in prompts:
        prompt.connect(address)
    return prompts
