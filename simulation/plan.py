"""The plan of a run: how many of what, and what goes wrong, drawn from the seed.

Every fault has its own probability of being in the game at all and its own frequency ("swarm"): runs in which
only one thing goes wrong find other bugs than runs in which everything does.
"""
from __future__ import annotations

import dataclasses
import errno
import math
import os
from typing import Any

from simulation.dice import Dice
from simulation.operations import OPERATIONS, SPECIAL

#: Each kind of fault: how likely it is in the game.  `faults` has what it does.
KINDS = {
    'reset': 0.4, 'lose_end': 0.3, 'sever': 0.3, 'jam': 0.2,
    'kill_client': 0.25, 'stop_client': 0.2, 'pause_client': 0.2,
    'kill_server': 0.35, 'stop_server': 0.15, 'pause_server': 0.15,
    'power_server': 0.25, 'power_client': 0.15, 'clock': 0.2, 'kill_relay': 0.3,
    'accept_error': 0.1, 'file_error': 0.15, 'sync_error': 0.1,
    'full_server': 0.1, 'full_client': 0.1, 'raise_storage': 0.15, 'hostile': 0.2, 'restore_server': 0.08,
}
#: The same, of the process that packs; not in the game without one.
OF_PACKER = {'kill_packer': 0.5, 'pause_packer': 0.4, 'packer_error': 0.4, 'orphan_packer': 0.3}
#: The same, of what came later: seeds without it have the plans that they always had.
ADDED = {'fork_client': 0.15}
#: What only makes sense for a storage whose data outlive its process.
NEEDS_FILE = ('kill_server', 'stop_server', 'power_server', 'sync_error', 'full_server',
              'restore_server')
#: What is said where a server's disk is full; the second by ZODB.
OF_FULL_DISK = os.strerror(errno.ENOSPC), "Couldn't save truncated data"
#: What storages that raise say.
RAISED = 'as planned'
#: What a client says whose cache is of a past that a restored backup has ended.
OF_CACHE = 'the client cache'

#: ... and of a file that a child of the client before still has.
IN_USE = 'is in use by process'


@dataclasses.dataclass
class Plan:
    """See the fields' names; times in seconds, sizes in bytes."""

    seed: str
    storage: str = 'file'
    clients: int = 3
    threads: int = 1
    transactions: int = 150
    limit_s: float = 60.0
    accounts: int = 5
    latency_s: tuple[float, float] = (0.0002, 0.004)
    window: int = 64 << 10
    segment: int = 8000
    switchiness: float = 0.05
    statements: int = 2000
    strict_disk: bool = False
    relay: bool = False
    packs: bool = False
    packer: bool = False  # packs are done by a process of their own
    late: bool = False
    connections: int = 0  # what their caches hold; 0: without ZODB's own
    counters: int = 0
    resolved_by_clients: bool = False
    relay_cache: bool = False  # it is kept, as with ``--relay``
    blobs: int = 0
    shared_blobs: bool = False
    large_blob: int = 5000
    blob_cache_size: int | None = None
    sync_s: tuple[float, float] = (0.0002, 0.002)
    think_s: float = 0.01
    longest_vote_s: float = 1.0
    padding: int = 200
    large_record: int = 20_000
    cache_size: int = 1 << 20
    persistent: bool = False
    wait_timeout_s: float = 30.0
    heartbeat_s: float = 10.0
    io_thread: bool = True
    server_sync: bool = False
    history_size: int = 100
    transaction_timeout_s: float = 30.0
    operations: tuple[str, ...] = ()
    faults: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds between two, on average

    def may_fail(self, error: Exception) -> bool:
        """May a commit be refused with this, because of a fault that is in the game?"""
        if 'sync_error' in self.faults and 'takes no more transactions' in str(error):
            return True
        if 'restore_server' in self.faults and OF_CACHE in str(error):
            return True
        if 'fork_client' in self.faults and IN_USE in str(error):
            return True
        if 'choose' in self.operations and 'cannot have the tid' in str(error):
            return True
        if 'raise_storage' in self.faults and RAISED in str(error):
            return True
        if 'full_server' in self.faults and any(one in str(error) for one in OF_FULL_DISK):
            return True
        return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO)


def draw(seed: str, changes: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> Plan:
    """The plan of a seed; `changes` are fields that somebody wants otherwise, `without` faults and
    operations to omit."""
    dice = Dice(seed, 'plan')
    choice, chance, between = dice.choice, dice.chance, dice.between
    slow = dice.random() ** 3
    plan = Plan(
        seed,
        storage='file' if chance(0.75) else 'mapping',
        clients=1 + dice.below(4),
        threads=1 + dice.below(3) if chance(0.5) else 1,
        transactions=60 + dice.below(140),
        accounts=2 + dice.below(7),
        latency_s=(0.0001 + 0.005 * slow, 0.002 + 0.2 * slow),
        window=choice((2_000, 20_000, 200_000, 1_000_000)),
        segment=choice((10, 500, 1500, 50_000)),
        switchiness=choice((0.0, 0.01, 0.1, 0.5)),
        strict_disk=chance(0.4),
        sync_s=choice(((0.00001, 0.0001), (0.0002, 0.002), (0.002, 0.03))),
        think_s=choice((0.0, 0.001, 0.02, 0.2)),
        longest_vote_s=choice((0.01, 0.5, 3.0, 40.0)),
        padding=choice((20, 200, 2000)),
        large_record=choice((5_000, 50_000, 300_000)),
        cache_size=choice((20_000, 100_000, 1 << 20)),
        persistent=chance(0.5),
        wait_timeout_s=choice((1.0, 5.0, 30.0)),
        heartbeat_s=choice((1.0, 10.0)),
        io_thread=chance(0.9),
        server_sync=chance(0.2),
        history_size=choice((1, 5, 20, 100)),
        transaction_timeout_s=choice((2.0, 30.0)),
    )
    plan.statements = choice((60, 600, 6000))
    plan.relay = chance(0.25)
    plan.late = chance(0.3)
    plan.connections = choice((3, 400)) if chance(0.35) else 0
    weights = [(name, dice.below(4)) for name in OPERATIONS if name not in SPECIAL]
    weights += [('transfer', 1), ('audit', 1)]
    plan.operations = tuple(name for name, weight in weights for _ in range(weight))
    plan.packs = plan.storage == 'file' and chance(0.2)
    if plan.packs:
        plan.strict_disk = False  # on a strict one ZODB's own pack can lose the names of both files
        plan.operations = (*(one for one in plan.operations if one != 'create'), 'pack')
    if plan.storage == 'file' and not plan.packs and chance(0.4):
        plan.operations = (*plan.operations, 'undo', 'undo')
    if chance(0.2):
        plan.operations = (*plan.operations, 'choose')
    if plan.storage == 'file' and chance(0.3):
        plan.blobs = 1 + dice.below(3)
        plan.large_blob = choice((1000, 70_000, 200_000))
        plan.blob_cache_size = choice((None, 20_000, 1 << 20))
        plan.operations = (*plan.operations, *['write_blob'] * 3, *['read_blob'] * 4)
    added = Dice(seed, 'plan, added')  # a seed that gets nothing of this has the plan that it always had
    if added.chance(0.3):
        plan.counters = 1 + added.below(2)
        plan.resolved_by_clients = added.chance(0.3)
        plan.operations = (*plan.operations, *['count'] * 5)
    plan.relay_cache = added.chance(0.5)
    plan.shared_blobs = added.chance(0.4)
    plan.packer = plan.packs and added.chance(0.6)
    plan.operations += ('pack',) * (4 * plan.packer)
    pace = math.exp(between(math.log(0.5), math.log(10.0)))
    for kind, probability in KINDS.items():
        if chance(probability):
            plan.faults[kind] = pace * math.exp(between(-1, 1))
    for kind, probability in (*OF_PACKER.items(), *ADDED.items()):
        if added.chance(probability):
            plan.faults[kind] = pace * math.exp(added.between(-2, 0))  # there is less time for them
    for name, value in (changes or {}).items():
        setattr(plan, name, value)
    _leave_out(plan, without)
    return plan


def _leave_out(plan: Plan, without: tuple[str, ...]) -> None:
    """What is not wanted, and what does not go together."""
    gone = {*without, *(() if plan.relay else ('kill_relay',))}
    if plan.storage == 'mapping':
        plan.blobs, plan.packs = 0, False
        gone |= {*NEEDS_FILE, 'undo'}
    if plan.packs:
        gone |= {'restore_server', 'create', 'undo'}
    else:
        plan.packer = False
        gone.add('pack')
    if not plan.packer:
        gone |= {*OF_PACKER}
    if 'restore_server' in plan.faults and 'restore_server' not in gone:
        gone |= {'clock', 'choose'}  # the same tid must not be given in two pasts
    if plan.relay or not plan.blobs:
        plan.shared_blobs = False
    if not plan.counters:
        gone.add('count')
    if not plan.blobs:
        gone |= {'write_blob', 'read_blob'}
    plan.faults = {kind: pace for kind, pace in plan.faults.items() if kind not in gone}
    plan.operations = tuple(one for one in plan.operations if one not in gone)
