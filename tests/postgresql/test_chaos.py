"""Two servers in front of one PostgreSQL, whatever happens to one of the three (X2, X3, C11).

In CI each thing happens once; with ZEO_CLONE_HEAVY it goes on for half an hour.
"""
from __future__ import annotations

import itertools
import os
import random
import selectors
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.postgresql.counting import PATIENCE_S as LIMIT_S
from tests.postgresql.counting import Counting
from tests.support.cable import Cable
from zeo_clone.addresses import format_address

psycopg2 = pytest.importorskip('psycopg2')
pytestmark = [pytest.mark.long, pytest.mark.once]

#: So many things happen at least, one after the other, and so long, in seconds.
TURNS = 4
LASTS_S = 1800 if os.environ.get('ZEO_CLONE_HEAVY') else 0
#: The part of them that waits for a COMMIT, of which nobody knows yet at that moment.
SHARP = 0.7
#: While one is stopped or cut off it may hold locks, and nobody waits longer for others to go on, in seconds.
PAUSES_S = 0.1, 1.0, 8.0
#: ``database-patience`` of the servers: less than some pauses, so that one that is cut off gives up.
PATIENCE_S = 2
#: A client notices in three times that, in seconds, that its server does not answer.
HEARTBEAT_S = 1.0


@pytest.fixture
def keep_history():
    return True


class Place:
    """A server, always at the same address, and its own connection to the database."""

    def __init__(self, stack, cluster, dsn, name, configure, new_process):
        socket = Path(cluster.directory, '.s.PGSQL.5432')
        self._cluster = cluster
        self._dsn = dsn
        self._new_process = new_process
        self.cable = stack.enter_context(Cable(str(socket)))
        through = dsn.replace(f'host={cluster.directory}', f'host=127.0.0.1 port={self.cable.port}')
        assert through != dsn
        self._configuration = configure(f'{name}.conf', through, PATIENCE_S)
        self._process = new_process(configuration=self._configuration)
        self.address = self._process.address

    def wait_for_a_commit(self):
        """Until the database says that there is one; its server has not been told more."""
        connection = psycopg2.connect(self._dsn)
        try:
            connection.autocommit = True
            connection.cursor().execute('LISTEN zeo_clone')
            with selectors.DefaultSelector() as selector:
                selector.register(connection, selectors.EVENT_READ)
                assert selector.select(LIMIT_S)
        finally:
            connection.close()

    def killed(self, counting, pause_s):
        self._process.send(signal.SIGKILL)
        self._process.result()
        self._process = self._new_process(format_address(self.address), self._configuration)

    def database_killed(self, counting, pause_s):
        self._cluster.crash()
        self._cluster.start()

    def stopped(self, counting, pause_s):
        self._process.send(signal.SIGSTOP)
        counting.wait(8, pause_s)
        self._process.send(signal.SIGCONT)

    def cut_off(self, counting, pause_s):
        """The database does not hear of it before it is over."""
        self.cable.unplug()
        counting.wait(4, pause_s / 2)
        self.cable.break_off()
        counting.wait(4, pause_s / 2)
        self.cable.plug()

    WHAT = killed, stopped, database_killed, cut_off


def test_each_acknowledged_commit_is_there_once_whatever_happens(new_process, configure, cluster, dsn):
    """X2, X3, C11: nothing is lost or done twice, and no outcome is unknown: clients go on at the other."""
    chance = random.Random(20)
    with ExitStack() as stack:
        places = [Place(stack, cluster, dsn, name, configure, new_process) for name in 'ab']
        addresses = [place.address for place in places]
        with Counting([addresses, addresses[::-1], addresses], heartbeat=HEARTBEAT_S) as counting:
            end = time.monotonic() + LASTS_S
            for turn in itertools.takewhile(lambda turn: turn < TURNS or time.monotonic() < end,
                                            itertools.count()):
                counting.wait_for_all()
                place, pause_s = chance.choice(places), chance.choice(PAUSES_S)
                if chance.random() < SHARP:
                    place.wait_for_a_commit()
                Place.WHAT[turn % len(Place.WHAT)](place, counting, pause_s)
            counting.wait_for_all()
        counting.check(addresses[0])
