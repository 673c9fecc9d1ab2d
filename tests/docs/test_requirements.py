"""The numbers of requirements: each is defined once, known wherever it is used, and named by a test."""
from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter

import pytest

from tests.docs.pages import CHECKOUT, DOCS

pytestmark = pytest.mark.once

NUMBER = re.compile(r'\b[BCDKLNSTX][1-9]\d?[a-c]?\b')
DEFINED = re.findall(rf'^\| ({NUMBER.pattern}) \|', (DOCS / 'requirements.md').read_text('utf-8'),
                     re.MULTILINE)


def numbers(text):
    return set(NUMBER.findall(text))


def in_docstrings(source):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return numbers(' '.join(ast.get_docstring(node) or '' for node in ast.walk(ast.parse(source))
                            if isinstance(node, kinds)))


def in_comments(source):
    return numbers(' '.join(token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)
                            if token.type == tokenize.COMMENT))


def undefined(source):
    """Numbers that comments and docstrings of `source` use and nobody defines; other texts may say B9."""
    unknown = numbers(source) - set(DEFINED)
    return unknown and unknown & (in_docstrings(source) | in_comments(source))


SOURCES = {path.relative_to(CHECKOUT).as_posix(): path.read_text('utf-8')
           for room in ('zeo_clone', 'simulation', 'benchmarks', 'examples', 'tests')
           for path in sorted((CHECKOUT / room).rglob('*.py'))}


def test_each_number_is_defined_once():
    assert [number for number, count in Counter(DEFINED).items() if count > 1] == []


def test_every_number_in_the_code_is_defined():
    assert {path: found for path, source in SOURCES.items() if (found := undefined(source))} == {}


@pytest.mark.parametrize('source', ['# see T99', 'def f():\n    """C98: no."""', '"""(S1, S97)"""'])
def test_a_number_that_is_not_defined_is_found(source):
    assert undefined(source) and not undefined(f'text = {source!r}')


def test_every_number_that_is_defined_is_named_by_a_test():
    named = set().union(*(in_docstrings(source) for path, source in SOURCES.items() if '/test_' in path))
    assert set(DEFINED) - named == set()


def test_pages_use_no_other_numbers():
    """Those in the last column, as in guarantees.md, or in brackets."""
    places = re.compile(r'\| ([A-Z0-9a-c, ]+) \|$|\(([A-Z0-9a-c, ]+)\)', re.MULTILINE)
    for page in sorted(DOCS.glob('*.md')):
        used = ' '.join(place[0] for place in places.finditer(page.read_text('utf-8')))
        assert numbers(used) - set(DEFINED) == set(), page.name
