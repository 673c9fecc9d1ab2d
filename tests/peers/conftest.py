"""Combinations of our server and clients with real ZEO, at least one of each.

ZEO 6.2 in every combination.  ZEO 5.4, the last one of its line, speaks to us alone and beside 6.2, on
Pythons on which it runs: since 3.12 no client of it can connect (asyncio: "Timeout should be used inside a
task").
"""
from __future__ import annotations

import sys
from contextlib import ExitStack

import pytest

from tests.support.peer_env import OLD_ZEO, ZEO
from tests.support.server_process import ServerHost

OURS = 'zeo_clone'
#: (server, first client, second client)
COMBINATIONS = [
    (OURS, ZEO, ZEO),
    (OURS, ZEO, OURS),
    (OURS, OURS, ZEO),
    (ZEO, OURS, OURS),
    (ZEO, ZEO, OURS),
    (ZEO, OURS, ZEO),
]
OLD_COMBINATIONS = [
    (OURS, OLD_ZEO, ZEO),
    (OURS, OURS, OLD_ZEO),
    (OLD_ZEO, OURS, OLD_ZEO),
]
if sys.version_info < (3, 12):
    COMBINATIONS += OLD_COMBINATIONS
NAMES = {OURS: 'ours', ZEO: 'zeo', OLD_ZEO: 'zeo5'}


def named(combination):
    server, first, second = (NAMES[package] for package in combination)
    return f'{server}_serves_{first}_and_{second}'


@pytest.fixture(scope='module')
def hosts():
    """A server process of each package; the servers in it belong to the tests."""
    packages = {combination[0] for combination in COMBINATIONS}
    with ExitStack() as stack:
        yield {package: stack.enter_context(ServerHost(package)) for package in packages}


@pytest.fixture(params=COMBINATIONS, ids=named)
def combination(request):
    """The packages of server, first and second client."""
    return request.param


@pytest.fixture
def serve(combination, hosts, tmp_path):
    """Start the combination's server over a FileStorage with blobs: ``serve(**options)`` -> address."""
    host = hosts[combination[0]]
    started = []

    def start(**options):
        path, blob_dir = (str(tmp_path / f'{len(started)}.{kind}') for kind in ('fs', 'blobs'))
        storage = {'kind': 'file', 'path': path, 'blob_dir': blob_dir, 'pack_gc': False}
        started.append(host.start([storage], **options))
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


@pytest.fixture
def blob_clients(combination, serve, console, tmp_path):
    """The same, with blob directories."""
    address = serve()
    prompts = [console(package) for package in combination[1:]]
    for number, prompt in enumerate(prompts):
        prompt.connect(address, blob_dir=str(tmp_path / f'cache-{number}'))
    return prompts
