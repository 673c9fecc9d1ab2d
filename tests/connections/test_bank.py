"""A bank: several processes move money while connections break and the server is killed.

Every snapshot adds up (no read skew), no acknowledged move is lost and no refused one takes place (no lost
update): each move counts in both accounts, so the accounts know how many there were.
"""
from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
import ZODB

from tests.connections.bank_client import ACCOUNTS, look, open_accounts
from tests.support.proxy import AFTER, DOWN, INSIDE, UP, Proxy

pytestmark = pytest.mark.long

#: Ten minutes in the heavy run.
SECONDS = 600 if os.environ.get('ZEO_CLONE_HEAVY') else 30
CUSTOMERS = 3
#: Seconds between two faults.
PAUSE_S = 0.4


def make_trouble(rng, proxy, server_process):
    """One fault; its kind."""
    kind = rng.randrange(6)
    if kind == 0:
        server_process.kill()
        server_process.start()
    elif kind == 1:
        proxy.cut_all()
    elif kind == 2:
        proxy.cut(DOWN, b'length', AFTER)  # a commit's reply is lost
    elif kind == 3:
        proxy.cut(UP, b'tpc_finish', AFTER)
    elif kind == 4:
        proxy.cut(UP, rng.choice([b'storea', b'vote', b'tpc_finish', b'loadBefore']), INSIDE)
    else:
        proxy.cut(DOWN, b'invalidateTransaction', INSIDE)
    return kind


def test_money_is_neither_made_nor_lost(server_process, client):
    """C9, C11, N14."""
    rng, troubles = random.Random(14), [0] * 6
    with Proxy(server_process.address) as proxy:
        db = ZODB.DB(client(server_process.address, wait_timeout=60))
        with db.transaction() as connection:
            open_accounts(connection)
        customers = [
            subprocess.Popen([sys.executable, '-m', 'tests.connections.bank_client',
                              str(proxy.address[1]), str(SECONDS), str(number)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for number in range(CUSTOMERS)]
        while any(customer.poll() is None for customer in customers):
            try:
                customers[0].wait(PAUSE_S)
            except subprocess.TimeoutExpired:  # noqa: PERF203 - one fault per pause
                troubles[make_trouble(rng, proxy, server_process)] += 1
        said = [customer.communicate(timeout=60) for customer in customers]
    failed = [errors for customer, (_, errors) in zip(customers, said, strict=True) if customer.returncode]
    assert failed == []
    counts = [json.loads(text) for text, _ in said]
    db.storage.ping()  # the last invalidation has arrived then
    with db.transaction() as connection:
        root = connection.root()
        look(root)
        moves = sum(root[number]['moves'] for number in range(ACCOUNTS)) // 2
    db.close()
    acknowledged = sum(count['acknowledged'] for count in counts)
    unknown = sum(count['unknown'] for count in counts)
    print(f'{moves} moves, {acknowledged} acknowledged, {unknown} unknown; server killed {troubles[0]} '
          f'times, connections cut {sum(troubles[1:])} times; {counts}')
    assert acknowledged <= moves <= acknowledged + unknown, counts
    assert acknowledged > 10 and sum(count['repeated'] for count in counts) > 0
