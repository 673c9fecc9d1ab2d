"""`zeo_clone.DB` and `zeo_clone.connection` on a database that is still empty."""
from __future__ import annotations

from contextlib import closing

import pytest
import transaction
import ZODB
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError

import zeo_clone
from zeo_clone.ClientStorage import ClientStorage


@pytest.fixture
def overtaken(server, monkeypatch):
    """An address; in the moment in which a client of `zeo_clone.client` begins the transaction that creates
    the root object, another client is faster."""
    others = [ClientStorage]

    class Overtaken(ClientStorage):
        def tpc_begin(self, *args, **keywords):
            if others:
                with closing(ZODB.DB(others.pop()(server.addr))) as db, db.transaction() as conn:
                    conn.root()['first'] = 'the other one'
            super().tpc_begin(*args, **keywords)

    monkeypatch.setattr('zeo_clone.ClientStorage.ClientStorage', Overtaken)
    yield server.addr
    assert not others


@pytest.mark.parametrize('options', [{}, {'io_thread': False}])
def test_client_that_is_not_the_first_on_an_empty_database_finds_the_root_of_the_first(overtaken, options):
    with closing(zeo_clone.connection(overtaken, **options)) as conn:
        assert dict(conn.root()) == {'first': 'the other one'}
        conn.root()['second'] = 'we'
        transaction.commit()


def test_ZODBs_own_constructor_fails_there(overtaken):
    """What `docs/client.md` says about it."""
    with closing(zeo_clone.client(overtaken)) as storage:
        with pytest.raises(ConflictError):
            ZODB.DB(storage)
        storage.ping()
        with closing(ZODB.DB(storage)) as db, db.transaction() as conn:
            assert list(conn.root()) == ['first']


def test_conflict_that_does_not_go_away_is_raised_after_some_attempts(new_server, monkeypatch):
    storages, attempts = [], []

    class Unlucky(MappingStorage):
        def store(self, *args):
            attempts.append(args)
            raise ConflictError

    class Noted(ClientStorage):
        def __init__(self, *args):
            super().__init__(*args)
            storages.append(self)

    monkeypatch.setattr('zeo_clone.ClientStorage.ClientStorage', Noted)
    with pytest.raises(ConflictError):
        zeo_clone.DB(new_server({'1': Unlucky()}).addr)
    assert len(attempts) == zeo_clone.MAX_ATTEMPTS
    assert [storage.is_connected() for storage in storages] == [False]
