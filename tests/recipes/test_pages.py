"""Each recipe works as it stands on its page."""
from __future__ import annotations

import shutil

import pytest

from tests.docs.pages import DOCS, RECIPES, blocks
from tests.recipes import plone

pytestmark = [pytest.mark.long, pytest.mark.once]

#: What the last lines of output are.
OUTPUT = {
    'moving.md': '',
    'processes.md': '4950\n10\nvisit 1\n',
    'pyramid.md': '{"visits": 1}{"visits": 2}',
    'zope.md': 'News of the day',
}


def test_there_is_a_test_for_each_recipe():
    """That with Plone is plone.py, which takes too long to be run each time."""
    assert {*OUTPUT, plone.PAGE} == RECIPES


@pytest.mark.parametrize('page', sorted(OUTPUT))
def test_recipe_works(page, reader):
    """T1"""
    if shutil.which('curl') is None and 'curl' in (DOCS / page).read_text(encoding='utf-8'):
        pytest.skip('there is no curl')
    followed = reader.follow(page)
    assert followed == sum(block.words != ('install',) for block in blocks(page))
    assert reader.output.endswith(OUTPUT[page])
