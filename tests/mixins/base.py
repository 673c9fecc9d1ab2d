"""What ZODB's mixins need around them: a server in another process and clients that are closed.

Each test class has one server process; each test has a server and an empty storage of its own in it.
The parts that make up a combination (a kind of storage, of address, of conflict resolution, of records)
are classes to be mixed.
"""
from __future__ import annotations

import os

from ZODB.tests.hexstorage import HexStorage
from ZODB.tests.StorageTestBase import StorageTestBase

from tests.support.server_process import ANY_PORT, ServerHost


class MixinTestCase(StorageTestBase):
    """`_storage` is a ClientStorage.  A subclass says in `served` what the server serves."""

    host = None
    use_extension_bytes = True  # a client tells extensions as they are stored, byte for byte
    #: The classes with which ZODB tests conflicts.
    server_options = {'resolve': ['ZODB.tests.*']}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.host = ServerHost()

    @classmethod
    def tearDownClass(cls):
        cls.host.process.stop()
        cls.host = None
        super().tearDownClass()

    def served(self, name):
        """The storage to serve, as in ``serve.py``.  The working directory is the test's own."""
        raise NotImplementedError

    def address(self, name):
        """Where the server of `name` listens."""
        return ANY_PORT

    def start(self, name):
        """Start a server of an empty storage; its address."""
        served = self.host.start([self.served(name)], self.address(name), **self.server_options)
        self._running.append(served)
        return served.address

    def setUp(self):
        super().setUp()
        self._clients = []
        self._running = []
        self._address = self.start('Data')
        self.open()

    def tearDown(self):
        try:
            for client in reversed(self._clients):
                client.close()
            for served in reversed(self._running):
                self.host.stop(served)
        finally:
            super().tearDown()

    def open(self, **options):
        """Make `_storage` a new client of the server; the mixins reopen their storage with it."""
        options.pop('create', None)  # an option of FileStorage that mixins may pass
        self._storage = self._new_storage_client(**options)

    def _new_storage_client(self, **options):
        """One more client of the same server, closed after the test."""
        return self.connect(self._address, **options)

    def connect(self, address, **options):
        """A client of the server at `address`, closed after the test."""
        from zeo_clone.ClientStorage import ClientStorage
        client = ClientStorage(address, **options)
        self._clients.append(client)
        return client


class OverFileStorage(MixinTestCase):

    def served(self, name):
        return {'kind': 'file', 'path': os.path.abspath(f'{name}.fs')}


class OverMappingStorage(MixinTestCase):

    def served(self, name):
        return {'kind': 'mapping'}


class OverDemoStorage(MixinTestCase):

    def served(self, name):
        return {'kind': 'demo'}


class OverUnixSocket:

    def address(self, name):
        return os.path.abspath(f'{name}.sock')


class ResolvedByClients:
    """The server leaves conflicts to its clients."""

    server_options = {'client_conflict_resolution': True, 'resolve': ['ZODB.tests.*']}


class HexOnServer:
    """The served storage transforms its records; clients know nothing of it."""

    def served(self, name):
        return {'kind': 'hex', 'base': super().served(name)}


class HexOnClient:
    """The client transforms records; the server knows only how to find references in them."""

    def served(self, name):
        return {'kind': 'server_hex', 'base': super().served(name)}

    def connect(self, address, **options):
        return HexStorage(super().connect(address, **options))


class WithDestination:
    """For the mixins of recovery: `_dst` is a client of a second server, with an empty storage."""

    def setUp(self):
        super().setUp()
        self._dst = self.connect(self.start('Destination'))
