"""What a client and a server take has one name everywhere: argument, key, key of a URI, page."""
from __future__ import annotations

import io
import re

import pytest
import ZConfig

from tests.docs.pages import DOCS
from zeo_clone.client.arguments import IGNORED, SIGNATURE
from zeo_clone.configuration import uri, zconfig

ARGUMENTS = set(SIGNATURE.parameters)
#: Arguments that are objects of Python, or of a process as a whole.
OBJECTS = {'blob_progress', 'ssl', 'ssl_server_hostname', 'io_thread', 'world'}
#: Arguments that have another name, or another form, as a key and in a URI.
IN_OTHER_WORDS = {'addr': 'server', 'cache': 'cache_path'}


def keys_of(section):
    schema = ZConfig.loadSchema(zconfig.SCHEMA)
    if section not in ('zeo', 'ssl'):
        schema = ZConfig.loadSchemaFile(io.StringIO(
            '<schema><import package="ZODB"/><import package="zeo_clone"/></schema>'))
    return {key.replace('-', '_') for key, _ in schema.gettype(section) if key is not None}


def test_every_argument_of_a_client_is_a_key_of_its_section():
    keys = keys_of('zeo-clone-client')
    named = {IN_OTHER_WORDS.get(name, name) for name in ARGUMENTS - OBJECTS}
    assert named - {'disconnect_poll', 'credentials'} == keys
    assert keys_of('clientstorage') == keys - set(IGNORED) - {
        'client', 'var', 'wait', 'min_disconnect_poll', 'max_disconnect_poll'}  # ZEO's section alone has them


def test_every_argument_of_a_client_is_a_key_of_a_uri():
    assert set(uri.CLIENT_KEYS) == ARGUMENTS - OBJECTS - {'addr', 'disconnect_poll', 'credentials'}
    assert {key.removeprefix('ssl_') for key in uri.OTHER_KEYS if key.startswith('ssl_')} == {
        'ca', 'crl', 'cert', 'key', 'hostname'}


def test_every_argument_of_a_client_is_on_its_page():
    page = (DOCS / 'client.md').read_text(encoding='utf-8')
    rows = re.search(r'^\| argument \|.*\n\|[-|]+\n((?:\|.*\n)+)', page, re.MULTILINE)[1]
    told = {name for row in rows.splitlines() for name in re.findall(r'`(\w+)`', row.split('|')[1])}
    assert told == ARGUMENTS - set(IGNORED)


@pytest.mark.parametrize(('section', 'page'), [('zeo', 'server.md'), ('ssl', 'tls.md')])
def test_every_key_of_the_server_is_on_a_page(section, page):
    pages = {path.name: path.read_text(encoding='utf-8') for path in DOCS.glob('*.md')}
    keys = {key.replace('_', '-') for key in keys_of(section)}
    assert {key for key in keys if not re.search(rf'\b{key}\b', ''.join(pages.values()))} == set()
    assert any(key in pages[page] for key in keys)
