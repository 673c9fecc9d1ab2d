"""Proof that the simulation finds something: bugs that are planted from outside."""
from __future__ import annotations

import pytest

from simulation.planted import fits, library, planted
from simulation.runs import NO_WISHES, run

pytestmark = [pytest.mark.long, pytest.mark.once]

#: For each kind of oracle one that the first seeds show, whatever the schedule of the product; the command
#: tries all.
SOON = ['last-tid-before-invalidation', 'own-commit-not-cached', 'grant-forgotten', 'one-not-told',
        'conflict-overlooked', 'end-forgotten', 'resolved-not-told', 'rest-of-group-not-told']


@pytest.mark.parametrize('name', SOON)
def test_a_planted_bug_is_found(name):
    results = (run(seed, NO_WISHES._replace(bug=name)) for seed in range(1, 501))
    found = next(result.faults[0] for result in results if result.faults)
    assert fits(found), found


def test_each_planted_bug_is_a_patch_of_what_is_there_and_goes_again():
    """A patch of a name that the product does not have any more raises."""
    for bug in library().values():
        before = [(where, name, getattr(where, name)) for where, name, _ in bug.patches()]
        with planted(bug.name):
            assert any(getattr(where, name) is not value for where, name, value in before)
        assert all(getattr(where, name) is value for where, name, value in before)
    assert len(library()) >= 24
