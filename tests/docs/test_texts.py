"""What pages quote of the package is there: error texts, loggers, environment variables."""
from __future__ import annotations

import ast
import inspect
import re

import pytest
import ZODB.POSException

from tests.docs.pages import CHECKOUT, DOCS
from zeo_clone.zrpc.offers import OFFERS

pytestmark = pytest.mark.once

SOURCES = [path.read_text(encoding='utf-8') for path in sorted((CHECKOUT / 'zeo_clone').rglob('*.py'))]
#: Parts of messages that are not always the same.
CHANGING = '\0'
VARIABLE = re.compile(r"environ(?:\.get\(|\[|ment\()'(\w+)'")


def messages(source):
    """All texts of a module, with CHANGING in place of what is filled in; no docstrings."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            documented.add(node.body[0].value)
        elif isinstance(node, ast.JoinedStr):
            yield ''.join(part.value if isinstance(part, ast.Constant) else CHANGING for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documented:
            yield re.sub(r'%[-.\d]*[srdfgx]', CHANGING, node.value)


def table(page, heading):
    """The first cells of a page's tables whose first column has that heading."""
    text = (DOCS / page).read_text(encoding='utf-8')
    for found in re.findall(rf'^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)', text, re.MULTILINE):
        yield from (row.split('|')[1].strip() for row in found.splitlines())


def test_every_text_on_the_page_about_troubles_is_one_of_ours_or_of_zodb():
    ours = [text for source in [*SOURCES, inspect.getsource(ZODB.POSException)] for text in messages(source)]
    quoted = [cell.strip('`') for cell in table('troubleshooting.md', 'text')]
    assert len(quoted) > 50
    assert [text for text in quoted if not any(text in message for message in ours)] == []


def test_every_logger_is_on_the_page():
    told = {name for cell in table('reference.md', 'logger') for name in re.findall(r'`([\w.]+)`', cell)}
    used = set()
    for path in (CHECKOUT / 'zeo_clone').rglob('*.py'):
        source = path.read_text(encoding='utf-8')
        module = '.'.join(path.relative_to(CHECKOUT).with_suffix('').parts)
        used |= set(re.findall(r"getLogger\('([\w.]+)'\)", source))
        used |= {module} if 'getLogger(__name__)' in source else set()
    assert {'.'.join(name.split('.')[:2]) for name in used} <= told
    assert told - {name for full in used for name in (full, '.'.join(full.split('.')[:2]))} == set()


def test_every_environment_variable_is_on_the_page():
    told = {cell.strip('`') for cell in table('reference.md', 'variable')}
    support = (CHECKOUT / 'tests' / 'support' / 'peer_env.py').read_text(encoding='utf-8')
    assert {name for source in [*SOURCES, support] for name in VARIABLE.findall(source)} == told


@pytest.mark.parametrize('offer', OFFERS)
def test_every_extension_of_the_protocol_is_on_its_page(offer):
    extensions = (DOCS / 'protocol.md').read_text(encoding='utf-8').partition('## Extensions')[2]
    assert re.search(rf'`{offer}[`(]', extensions)


@pytest.mark.parametrize('page', ['docs/internals.md', 'CONTRIBUTING.md'])
def test_files_that_contributors_are_sent_to_are_there(page):
    named = set(re.findall(r'`([\w/.]+\.(?:py|md))`', (CHECKOUT / page).read_text(encoding='utf-8')))
    places = [CHECKOUT, *(CHECKOUT / 'zeo_clone' / room for room in ('', 'server', 'server/clients'))]
    assert len(named) > 10
    assert {name for name in named if not any((place / name).is_file() for place in places)} == set()
