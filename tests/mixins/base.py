"""What ZODB's mixins need around them: a server in another process and clients that are closed.

Each test class has one server process; each test has a server and an empty storage of its own in it.
"""
from __future__ import annotations

import os

from ZODB.tests.StorageTestBase import StorageTestBase

from tests.support.server_process import ServerHost


class MixinTestCase(StorageTestBase):
    """`_storage` is a ClientStorage.  A subclass says in `served` what the server serves."""

    host = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.host = ServerHost()

    @classmethod
    def tearDownClass(cls):
        cls.host.process.stop()
        cls.host = None
        super().tearDownClass()

    def served(self):
        """The storage to serve, as in ``serve.py``.  The working directory is the test's own."""
        raise NotImplementedError

    def setUp(self):
        super().setUp()
        self._clients = []
        self._served = self.host.start([self.served()])
        self.open()

    def tearDown(self):
        try:
            for client in reversed(self._clients):
                client.close()
            self.host.stop(self._served)
        finally:
            super().tearDown()

    def open(self, **options):
        """Make `_storage` a new client of the server; the mixins reopen their storage with it."""
        options.pop('create', None)  # an option of FileStorage that mixins may pass
        self._storage = self._new_storage_client(**options)

    def _new_storage_client(self, **options):
        """One more client of the same server, closed after the test."""
        from zeo_clone.ClientStorage import ClientStorage
        client = ClientStorage(self._served.address, **options)
        self._clients.append(client)
        return client


class OverFileStorage(MixinTestCase):

    def served(self):
        return {'kind': 'file', 'path': os.path.abspath('Data.fs')}


class OverMappingStorage(MixinTestCase):

    def served(self):
        return {'kind': 'mapping'}
