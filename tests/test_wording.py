"""Numbers and texts for people.  T1."""
from __future__ import annotations

import re

import pytest

from tests.test_floors import MODULES
from zeo_clone.wording import format_moment, format_seconds, quoted

pytestmark = pytest.mark.once

#: What is often bytes, shown as Python writes it.
REPR = re.compile(r'\b(?:bytes|content|record|greeting|user|description|data|oid|tid)(?:\[:\d+\])?![rs]')


@pytest.mark.parametrize(('seconds', 'text'), [
    (0, '0 s'), (0.00909405, '0.0091 s'), (0.00001, '0 s'), (0.3, '0.3 s'), (1, '1 s'), (2.5, '2.5 s'),
    (9.96, '10 s'), (30.0, '30 s'), (59.4, '59 s'), (60, '1:00 min'), (90, '1:30 min'), (3723, '1:02:03 h')])
def test_times_are_as_exact_as_anybody_wants_to_know(seconds, text):
    assert format_seconds(seconds) == text


def test_a_moment_is_a_date_and_says_where():
    assert format_moment(1795887965.65) == '2026-11-28 17:46:05 UTC'
    assert format_moment(1e300).endswith(' seconds after 1970')


@pytest.mark.parametrize(('value', 'text'), [
    ('jane', "'jane'"), (b'jane', "'jane'"), (b'B\xc3\xbcro', "'Büro'"), (b'\x80\x03', r"'\\x80\x03'"),
    ('a\nb', r"'a\nb'"), (b'x' * 500, repr('x' * 100))])
def test_texts_of_others_are_in_quotes_without_a_b(value, text):
    assert quoted(value) == text


@pytest.mark.parametrize('module', MODULES)
def test_no_bytes_are_shown_as_python_writes_them(module):
    """They go through `quoted`, `hex` or a function of ZODB."""
    assert REPR.findall(MODULES[module].read_text(encoding='utf-8')) == []
