"""One customer of the bank test, a process of its own: moves money and looks at snapshots.

    python -m tests.connections.bank_client PORT SECONDS SEED      prints one line of JSON at the end

``acknowledged`` moves certainly took place, ``unknown`` ones perhaps; ``snapshots`` were seen whole.
"""
from __future__ import annotations

import json
import random
import sys
import time

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from transaction.interfaces import TransientError

from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.Exceptions import CommitOutcomeUnknown

ACCOUNTS = 6


def open_accounts(connection):
    for number in range(ACCOUNTS):
        connection.root()[number] = PersistentMapping(balance=0, moves=0)


def move(root, rng):
    source, target = rng.sample(range(ACCOUNTS), 2)
    amount = rng.randrange(100)
    for number, change in ((source, -amount), (target, amount)):
        root[number]['balance'] += change
        root[number]['moves'] += 1


def look(root):
    """The sum of all accounts in one snapshot: money is neither made nor lost."""
    total = sum(root[number]['balance'] for number in range(ACCOUNTS))
    moves = sum(root[number]['moves'] for number in range(ACCOUNTS))
    if total or moves % 2:
        raise AssertionError(f'a snapshot does not add up: {total}, {moves} moves')


def main(port, seconds, seed):
    rng = random.Random(seed)
    db = ZODB.DB(ClientStorage(('127.0.0.1', port), wait_timeout=60, client_label=f'customer {seed}'))
    connection = db.open()
    counts = {'acknowledged': 0, 'unknown': 0, 'snapshots': 0, 'repeated': 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            transaction.begin()
            look(connection.root())
            counts['snapshots'] += 1
            move(connection.root(), rng)
            transaction.commit()
            counts['acknowledged'] += 1
        except TransientError:  # noqa: PERF203
            counts['repeated'] += 1
            transaction.abort()
        except CommitOutcomeUnknown:
            counts['unknown'] += 1
            transaction.abort()
    connection.close()
    db.close()
    print(json.dumps(counts))


if __name__ == '__main__':
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
