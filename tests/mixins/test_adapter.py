"""The adapter finds both prefixes, and its tables cannot go stale unnoticed."""
from __future__ import annotations

import functools
import unittest

import pytest

from tests.mixins.adapter import collected


def faked(method):
    @functools.wraps(method)
    def wrapper(self):
        pass
    return wrapper


class Mixin:

    def checkOld(self):
        self.ran.append('checkOld')

    def testNew(self):
        self.ran.append('testNew')

    def test_race_of_two(self):
        self.ran.append('race')

    @faked
    def testClock(self):
        self.ran.append('real clock')


def run(**options):
    """Run the mixin as collected with `options`; what ran, and the reasons of what did not."""
    @collected(**options)
    class Case(Mixin, unittest.TestCase):
        ran = []
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert result.wasSuccessful()
    return sorted(Case.ran), [reason for _, reason in result.skipped]


def test_methods_of_both_prefixes_run():
    assert run() == (['checkOld', 'race', 'testNew'], [])


def test_races_run_as_many_rounds_as_asked():
    assert run(race_rounds=3)[0].count('race') == 3


def test_a_long_race_runs_once():
    assert run(race_rounds=3, one_round=['_race_of_two'])[0].count('race') == 1


@pytest.mark.parametrize('name', ['Old', 'New'])
def test_what_is_left_out_is_skipped_with_its_reason(name):
    ran, reasons = run(left_out={name: 'because'})
    assert not [full for full in ran if full.endswith(name)]
    assert reasons == ['because']


def test_a_test_with_a_faked_clock_can_run_with_the_real_one():
    assert 'real clock' in run(real_clock=['Clock'])[0]


@pytest.mark.parametrize('table', [{'left_out': {'Gone': 'because'}}, {'real_clock': ['Gone']}])
def test_a_name_that_no_mixin_has_is_an_error(table):
    with pytest.raises(TypeError, match='no test Gone'):
        run(**table)
