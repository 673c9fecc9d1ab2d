"""Every key of the sections of the real ZEO: accepted by ours, and told in docs/operations.md."""
from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path

import pytest
import ZConfig

from zeo_clone.configuration import zconfig

PAGE = Path(__file__).parent.parent.parent / 'docs' / 'operations.md'
#: Prints, for each section type of a component of ZEO, its keys.
KEYS = '''
import json, ZConfig, io
def keys(name, file):
    schema = ZConfig.loadSchemaFile(io.StringIO(
        '<schema><import package="ZODB"/><import package="ZEO" file="%s"/></schema>' % file))
    return [key for key, _ in schema.gettype(name) if key]
print(json.dumps({'zeo': keys('zeo', 'server.xml'), 'ssl (server)': keys('ssl', 'server.xml'),
                  'clientstorage': keys('clientstorage', 'component.xml'),
                  'ssl (client)': keys('ssl', 'component.xml'),
                  'zeoclient': keys('zeoclient', 'component.xml')}))
'''
OURS = {'zeo': 'zeo', 'ssl (server)': 'ssl', 'clientstorage': 'clientstorage', 'ssl (client)': 'ssl',
        'zeoclient': 'zeo-clone-client'}


@pytest.fixture(scope='module')
def theirs(peer_python):
    command = [peer_python, '-W', 'ignore', '-c', KEYS]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize('section', list(OURS))
def test_every_key_of_zeo_is_one_of_ours(theirs, section):
    schema = ZConfig.loadSchema(zconfig.SCHEMA) if section == 'zeo' else ZConfig.loadSchemaFile(io.StringIO(
        '<schema><import package="ZODB"/><import package="zeo_clone"/></schema>'))
    ours = [key for key, _ in schema.gettype(OURS[section])]
    assert len(theirs[section]) > 3
    assert [key for key in theirs[section] if key not in ours] == []


@pytest.mark.parametrize('section', list(OURS))
def test_the_page_says_of_every_key_what_we_do_with_it(theirs, section):
    """And names none that ZEO does not have."""
    table = PAGE.read_text(encoding='utf-8').partition('### Keys of configurations')[2].partition('\n#')[0]
    told = [key for sections, keys in re.findall(r'^\| `<([^>]+)>` \| ([^|]+) \|', table, re.MULTILINE)
            if sections == section for key in re.findall(r'`([^`]+)`', keys)]
    assert sorted(told) == sorted(theirs[section])
