"""A server in front of another one: its storage is a client."""
from __future__ import annotations

import base64
import contextlib

from ZODB.FileStorage import FileStorage

import zeo_clone
from zeo_clone.ClientStorage import ClientStorage


def test_an_undo_is_told_to_the_other_clients(new_server, tmp_path):
    """C3: what an undo wrote the inner server says at the vote, and the outer one tells its clients."""
    inner = new_server({'1': FileStorage(str(tmp_path / 'Data.fs'))})
    outer = new_server({'1': ClientStorage(inner.addr)})
    one, other = zeo_clone.DB(outer.addr), zeo_clone.DB(outer.addr)
    with contextlib.closing(one), contextlib.closing(other):
        for value in 1, 2:
            with one.transaction() as connection:
                connection.root()['value'] = value
        other.storage.ping()  # what was sent before the answer has taken effect
        with other.transaction() as connection:
            assert connection.root()['value'] == 2
        with one.transaction() as connection:
            one.undo(base64.b64encode(one.lastTransaction()), connection.transaction_manager.get())
        other.storage.ping()
        with other.transaction() as connection:
            assert connection.root()['value'] == 1
