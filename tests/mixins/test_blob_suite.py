"""ZODB's reusable suites for blobs and for external garbage collection, over a real server process.

    storage   address   blob directory of the client   records
    File      TCP       a cache of its own             plain
    File      unix      a cache of its own             transformed on the server
    File      TCP       a cache of its own             transformed on the client
    File      unix      shared with the server         plain
    Demo      TCP       a cache of its own             plain: without undo, which it cannot

The suites are doctests and test cases of ZODB; each becomes a test of its own here.  Not asked for is
``blob_packing.txt``: it wants the files of all revisions at hand (``fshelper``), which only the server has;
what it shows is shown in ``tests/storage/test_pack.py``.
"""
from __future__ import annotations

import os
import shutil
import unittest

import pytest
from ZODB.blob import copyTransactionsFromTo
from ZODB.FileStorage import FileStorage
from ZODB.tests import testblob
from ZODB.tests.hexstorage import HexStorage
from ZODB.tests.PackableStorage import IExternalGC_suite

from tests.support.server_process import ANY_PORT, ServerHost
from zeo_clone.ClientStorage import ClientStorage


class ForgettingStorage(ClientStorage):
    """Old revisions in a client's caches outlive a pack (C15, docs/client.md): here they go with it."""

    def pack(self, *args, **options):
        super().pack(*args, **options)
        self._cache.clear()
        for name in os.listdir('blobs'):
            if name.isdigit():  # a directory of the blob cache; a shared one has other names
                shutil.rmtree(os.path.join('blobs', name))


class Factory:
    """Makes storages for the suites, each a client of a server of its own."""

    def __init__(self):
        self.host = None  # while the tests of this module run
        self._made = []

    def make(self, name, blob_dir, *, kind='file', address=ANY_PORT, shared=False, hex_at=None,
             client_class=ClientStorage, **options):
        """A client of a server over an empty storage `name` in the working directory."""
        here = os.getcwd()
        server_blobs = os.path.join(here, blob_dir if shared else f'server-{blob_dir}')
        served = {'kind': 'file', 'path': os.path.join(here, f'{name}.fs'), 'blob_dir': server_blobs,
                  **options}
        if kind == 'demo':
            served = {'kind': 'demo'}  # it makes a directory for blobs itself
        if hex_at is not None:
            served = {'kind': 'hex' if hex_at == 'server' else 'server_hex', 'base': served}
        if address == 'unix':
            address = os.path.join(here, f'{name}.sock')
        running = self.host.start([served], address)
        client = client_class(running.address, blob_dir=blob_dir, shared_blob_dir=shared)
        self._made.append((running, client))
        return HexStorage(client) if hex_at == 'client' else client

    def clean_up(self):
        """After each test."""
        while self._made:
            running, client = self._made.pop()
            client.close()
            self.host.stop(running)


FACTORY = Factory()

COMBINATIONS = {
    'File': ({}, {}),
    'FileUnixHexOnServer': ({'address': 'unix', 'hex_at': 'server'}, {}),
    'FileHexOnClient': ({'hex_at': 'client'}, {}),
    'FileUnixShared': ({'address': 'unix', 'shared': True}, {}),
    'Demo': ({'kind': 'demo'}, {'test_undo': False}),
}

RANDOM_OIDS = 'it takes oids to be 1, 2, ...; those of a DemoStorage are random'
OTHER_DOOR = 'it makes os.rename fail, and reads ZODB\'s log; ours is tested in tests/loop/test_shareddir.py'
LEFT_OUT = {('Demo', 'is_blob_record'): RANDOM_OIDS, ('Demo', 'blob_transaction_txt'): RANDOM_OIDS,
            **{(title, 'commit_from_wrong_partition'): OTHER_DOOR for title in COMBINATIONS}}


def flat(suite):
    """The tests of a suite and of the suites in it."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def without_permissions(test):
    """The doctest without the step that nobody can fail who may write everywhere."""
    doctest = getattr(test, '_dt_test', None)
    if doctest is not None and os.geteuid() == 0:
        doctest.examples = [example for example in doctest.examples
                            if 'PermissionError' not in example.source]
    return test


def parameters():
    """Every test of the suites, with a name."""
    for title, (making, options) in COMBINATIONS.items():
        def create(name, blob_dir, making=making):
            return FACTORY.make(name, blob_dir, **making)
        for test in flat(testblob.storage_reusable_suite(title, create, **options)):
            name = test.id().rpartition('.')[2].rpartition('/')[2]
            reason = LEFT_OUT.get((title, name))
            yield pytest.param(without_permissions(test), id=f'{title}-{name}',
                               marks=[pytest.mark.skip(reason)] if reason else [])
    for title, shared in [('ExternalGC', False), ('ExternalGCShared', True)]:
        def create_for_gc(shared=shared):
            return FACTORY.make('data', 'blobs', shared=shared, pack_gc=False,
                                client_class=ForgettingStorage)
        yield pytest.param(IExternalGC_suite(create_for_gc), id=title)


@pytest.fixture(scope='module')
def factory():
    with ServerHost() as FACTORY.host:
        yield FACTORY


@pytest.mark.parametrize('test', list(parameters()))
def test_zodbs_suites(factory, test):
    """Blobs as ZODB knows them, and `IExternalGC`."""
    result = unittest.TestResult()
    try:
        test.run(result)
    finally:
        factory.clean_up()
    assert result.testsRun and result.wasSuccessful(), '\n'.join(
        text for _, text in result.failures + result.errors)


@pytest.mark.usefixtures('factory')
class TestBlobRecovery(testblob.RecoveryBlobStorage):
    """From a FileStorage to our client, and back again.

    Our client cannot be the source of ZODB's own test, which wants to restore blobs into it.
    """

    def create_storage(self, name='data'):
        if name == 'data':
            return FileStorage('source.fs', blob_dir='source-blobs')
        return FACTORY.make(name, 'blobs')

    def tearDown(self):
        FACTORY.clean_up()
        super().tearDown()

    def test_all_is_copied_back(self):
        self.testSimpleBlobRecovery()
        copy = FileStorage('copy.fs', blob_dir='copy-blobs')
        try:
            copyTransactionsFromTo(self._dst, copy)
            self.compare(self._dst, copy)
        finally:
            copy.close()
