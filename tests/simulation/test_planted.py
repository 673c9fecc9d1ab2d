"""Proof that the simulation finds something: bugs that are planted from outside."""
from __future__ import annotations

import pytest

from simulation.planted import library, planted
from simulation.runs import NO_WISHES, run

pytestmark = pytest.mark.long

#: Of these one of the first seeds shows it, whatever the product's schedule; the command tries all.
SOON = ['reply-stored-late', 'last-tid-before-invalidation', 'notices-not-kept', 'cache-not-verified',
        'own-commit-not-cached', 'ready-before-verified', 'thread-left-behind', 'lock-not-released',
        'grant-forgotten', 'one-not-told', 'conflict-overlooked', 'history-gap', 'outcome-not-asked',
        'end-forgotten', 'salt-kept']
#: What makes one show soon that else some fifty runs are needed for: caches that are emptied and not closed.
FIELDS = {'salt-kept': (('persistent', True), ('history_size', 1), ('transactions', 60), ('clients', 2),
                        ('faults', {'kill_client': 0.5, 'pause_client': 1.0, 'reset': 0.5}))}


@pytest.mark.parametrize('name', SOON)
def test_a_planted_bug_is_found(name):
    wishes = NO_WISHES._replace(bug=name, fields=FIELDS.get(name, ()))
    found = next((seed for seed in range(1, 501) if run(seed, wishes).faults), None)
    assert found is not None


def test_each_planted_bug_is_a_patch_of_what_is_there_and_goes_again():
    """A patch of a name that the product does not have any more raises."""
    for bug in library().values():
        before = [(where, name, getattr(where, name)) for where, name, _ in bug.patches()]
        with planted(bug.name):
            assert any(getattr(where, name) is not value for where, name, value in before)
        assert all(getattr(where, name) is value for where, name, value in before)
    assert len(library()) >= 24
