"""The whole system under a seeded clock: what every run has to keep.  Docs: docs/simulation.md."""
from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulation import watch
from simulation.operations import OPERATIONS
from simulation.plan import OF_PACKER, draw
from simulation.planted.in_packs import PACKS
from simulation.runs import Wishes, run
from simulation.world import World

pytestmark = pytest.mark.long

CHECKOUT = Path(__file__).parent.parent.parent
#: Seeds in this suite; `.ci/run` tries 100, and the command as many as one likes.
SEEDS = range(1, 9)


@pytest.mark.once
@pytest.mark.parametrize('seed', SEEDS)
def test_nothing_is_wrong_whatever_fails(seed):
    """C1 to C24, L2, L10, N12, D2, D4: see `simulation.oracles`."""
    result = run(seed)
    assert not result.faults, f'{result.line}; repeat it: python -m simulation --seed {seed} --verbose'


@pytest.mark.once
@pytest.mark.parametrize('connections', [0, 3])
def test_nothing_is_wrong_with_blobs_after_a_backup_was_restored(connections):
    """B11, C22, K3: by raw storages and by ZODB's connections; clients keep their cache files."""
    wishes = Wishes((('storage', 'file'), ('packs', False), ('blobs', 2), ('connections', connections),
                     ('persistent', True), ('clients', 2), ('transactions', 80), ('think_s', 0.02),
                     ('operations', ('write_blob', 'read_blob', 'transfer', 'audit', 'register', 'undo')),
                     ('faults', {'restore_server': 0.3, 'kill_client': 1.0, 'power_server': 2.0})))
    notes = []
    result = run(5, wishes, notes.append)
    assert not result.faults, f'{result.line}; repeat it: {wishes.command(5)} --verbose'
    assert any(note.endswith(' restored') for note in notes)


@pytest.mark.once
def test_nothing_is_wrong_with_packs_by_a_process_of_their_own():
    """L12, D2: it is killed, has errors, and outlives its server."""
    wishes = Wishes((*PACKS.items(), ('clients', 2), ('transactions', 80),
                     ('faults', dict.fromkeys(OF_PACKER, 0.5) | {'power_server': 5.0})))
    notes = []
    result = run(2, wishes, notes.append)
    assert not result.faults, f'{result.line}; repeat it: {wishes.command(2)} --verbose'
    assert any('spawn packer' in note for note in notes)


class BreaksAtRest(World):
    """... all connections, once its clients work no more."""

    def _rest(self):
        self.working = False
        self.kernel.run(lambda: all(client.resting for client in self.clients), 100.0)
        for connection in self.network.connections:
            connection.reset(drop=True)
        return super()._rest()


@pytest.mark.once
@pytest.mark.parametrize('relay', [False, True])
@pytest.mark.parametrize('io_thread', [False, True])
def test_a_connection_that_ends_at_rest_is_replaced(io_thread, relay):
    """N2: without a thread of the client's own its program turns the loop, as it should (seed 4585)."""
    world = BreaksAtRest(draw('3', {'io_thread': io_thread, 'relay': relay, 'faults': {}, 'transactions': 5}))
    world.run()
    assert not world.book.faults


def test_a_run_that_hangs_ends_and_says_where(monkeypatch):
    """Neither virtual time nor turns go on where a thread never gives way."""
    def circle(worker):
        while True:
            with contextlib.suppress(Exception):
                worker.name += ''

    monkeypatch.setattr(watch, 'LOOK_S', 0.1)
    monkeypatch.setattr(watch, 'SPINS_S', 1.0)
    monkeypatch.setitem(OPERATIONS, 'transfer', circle)
    before = signal.getsignal(signal.SIGALRM)
    fault = run(1).faults[0]
    assert re.search(r"client-\d+-1/worker \d.* is at\n.*, in circle\n", fault, re.DOTALL)
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_seed_is_the_same_run_again():
    one, other = run(4), run(4)
    assert (one.trace_hash, one.line) == (other.trace_hash, other.line)
    assert one.acknowledged > 50
    assert run(5).trace_hash != one.trace_hash


@pytest.mark.once
@pytest.mark.parametrize('hash_seed', ['0', '12345'])
def test_a_run_does_not_depend_on_the_hash_seed(hash_seed):
    told = subprocess.run([sys.executable, '-c', 'from simulation.runs import run; print(run(6).line)'],
                          env={**os.environ, 'PYTHONHASHSEED': hash_seed}, cwd=CHECKOUT, text=True,
                          capture_output=True, check=True)
    assert told.stdout.strip() == run(6).line
