"""What the documentation says works as it stands there."""
from __future__ import annotations

import configparser
import contextlib
import json
import re
import shlex
import shutil
import subprocess
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

import zeo_clone
from tests.docs.pages import CHECKOUT, DOCS, RECIPES, Reader, blocks
from zeo_clone.addresses import parse_address
from zeo_clone.thresholds import (
    DISK_FULL,
    DISK_FULL_BYTES,
    DISK_LOW,
    DISK_LOW_BYTES,
    EXPIRES_S,
    HELD_S,
    PACK_S,
    RECENT_S,
    USED,
    WAITING,
)

pytestmark = pytest.mark.once

PAGES = sorted(path.name for path in DOCS.glob('*.md'))
#: The same, and what people read outside of docs/.
TEXTS = [*sorted(DOCS.glob('*.md')), *(CHECKOUT / name for name in (
    'README.md', 'CHANGES.md', 'CONTRIBUTING.md', 'SECURITY.md', 'examples/README.md'))]
KINDS = ['What you must do', 'Added', 'Changed', 'Fixed']
#: Pages whose blocks are all followed, one after the other.
#: tests/postgresql follows scale-out.md.
FOLLOWED = [page for page in PAGES
            if page not in {'client.md', 'internals.md', 'scale-out.md', *RECIPES} and blocks(page)]
#: Blocks that are for other machines, or not for any; tests of their own look at them.
ELSEWHERE = {'unit', 'dockerfile', 'cron', 'logrotate', 'py', 'wire', 'yaml', 'text'}
#: Commands that are not ours, which pages need.
FOREIGN = {'tls.md': 'openssl', 'operations.md': 'curl'}
INSTALL = ('install',)
CLASSIC_NAMES = 'runzeo|zeopack|zeoctl|zeo-nagios|zeo-status'
VENV = '/srv/zeo/venv/bin/'
FOLLOWABLE = {'sh', 'python', 'conf'}


@pytest.fixture
def reader(tmp_path):
    directory = tmp_path / 'reader'
    directory.mkdir()
    with Reader(directory) as reader:
        yield reader


@pytest.fixture(scope='module')
def follow(tmp_path_factory):
    """Follow a page, once for all tests: who has read it, whose servers have ended, and how many blocks were
    followed."""
    done = {}

    def follow(page):
        if page not in done:
            with Reader(tmp_path_factory.mktemp('followed')) as reader:
                done[page] = reader, reader.follow(page)
        return done[page]

    return follow


def skip_without_commands(page):
    if page in FOREIGN and shutil.which(FOREIGN[page]) is None:
        pytest.skip(f'there is no {FOREIGN[page]}')


def only_block(page, language):
    found, = (block for block in blocks(page) if block.language == language)
    return found


@pytest.mark.parametrize('page', FOLLOWED)
def test_everything_on_the_page_works(page, follow):
    skip_without_commands(page)
    _, followed = follow(page)
    assert followed > 0
    assert {block.language for block in blocks(page) if block.words != INSTALL} <= FOLLOWABLE | ELSEWHERE
    assert followed == sum(block.language not in ELSEWHERE and block.words != INSTALL
                           for block in blocks(page))


def test_everything_on_the_page_about_the_client_works(reader):
    server = next(block for block in blocks('cache.md') if block.words == ('server',))
    assert reader.do(server)
    assert reader.follow('client.md') == len(blocks('client.md')) > 0


def test_install_lines_are_those_of_readme():
    install = next(block.text for block in blocks('getting-started.md') if block.words == INSTALL)
    readme = (CHECKOUT / 'README.md').read_text(encoding='utf-8')
    for line in install.splitlines()[:-1]:
        assert f'{line} && ' in readme


def test_getting_started_counts(follow):
    reader, _ = follow('getting-started.md')
    assert re.search(r'^2$.*^storage 1: up .*^2$', reader.output, re.MULTILINE | re.DOTALL)


def test_warm_cache_page_shows_the_same_data_twice(follow):
    reader, _ = follow('cache.md')
    assert 'cold {}\nwarm {}\n' in reader.output


def test_blob_page_reads_the_blob_back_in_both_ways(follow):
    reader, _ = follow('blobs.md')
    assert reader.output == "b'a very large picture'\n" * 2


def test_backup_of_the_operations_page_has_the_data(follow):
    skip_without_commands('operations.md')
    reader, _ = follow('operations.md')
    assert ((reader.directory / 'restored' / 'Data.fs').read_bytes()
            == (reader.directory / 'Data.fs').read_bytes())
    assert (reader.directory / 'restored' / 'blobs' / '.layout').exists()


def test_log_of_the_operations_page_is_reopened(follow):
    skip_without_commands('operations.md')
    reader, _ = follow('operations.md')
    assert 'serving storage' in (reader.directory / 'zeo.log.1').read_text()


def test_job_for_cron_packs(reader):
    for block in blocks('operations.md'):
        if block.words in [('zeo.conf',), ('server',)]:
            assert reader.do(block)
    *times, command = only_block('operations.md', 'cron').text.strip().split(None, 5)
    assert all(re.fullmatch(r'\*|\d+', time) for time in times)
    assert command.startswith(VENV)  # cron does not know where commands are
    reader.run('bash', '-c', reader.adapt(command.removeprefix(VENV)))


def test_unit_for_systemd_is_one(reader):
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str
    text = only_block('operations.md', 'unit').text
    unit.read_string(text)
    program, command, *arguments = shlex.split(unit['Service']['ExecStart'])
    assert program.endswith('/bin/zeo-clone') and command == 'serve'
    (reader.directory / 'zeo.conf').write_text(
        next(block.text for block in blocks('operations.md') if block.words == ('zeo.conf',)))
    reader.run('zeo-clone', 'check', *arguments)
    assert unit['Service']['Type'] == 'notify'
    if shutil.which('systemd-analyze'):
        # The user and the files are not on this machine; everything else must be known to systemd.
        path = reader.directory / 'zeo.service'
        path.write_text(text.replace(program, '/bin/true').replace('User=zeo\n', ''))
        done = subprocess.run(['systemd-analyze', 'verify', str(path)], text=True, capture_output=True,
                              timeout=60)
        assert 'Unknown' not in done.stderr, done.stderr


def test_prometheus_is_told_where_the_metrics_are_and_rules_use_those_that_there_are(reader):
    for block in blocks('operations.md'):
        if block.words in [('zeo.conf',), ('server',)]:
            assert reader.do(block)
    configuration, rules = (block for block in blocks('operations.md') if block.language == 'yaml')
    target, = re.findall(r"targets: \['(.*)'\]", configuration.text)
    assert f'metrics-address {target}\n' in blocks('operations.md')[0].text
    with contextlib.closing(zeo_clone.client(parse_address(reader.adapt('localhost:9100')))) as client:
        client.server_status()
        with urllib.request.urlopen(f'http://{reader.adapt(target)}/metrics', timeout=60) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    there = {name for family in families
             for name in (family.name, *(sample.name for sample in family.samples))}
    page = (DOCS / 'operations.md').read_text(encoding='utf-8')
    for limit in (f'zeo_commit_lock_held_seconds >= {HELD_S:g}\n', f'zeo_waiting_transactions >= {WAITING}\n',
                  f'increase(zeo_verifications_failed_total[{RECENT_S / 60:g}m]) > 0\n',
                  f'increase(zeo_timeouts_total[{RECENT_S / 60:g}m]) > 0\n',
                  f'zeo_disk_free_bytes < {DISK_LOW:g} * zeo_disk_size_bytes and zeo_disk_free_bytes < 5e9\n',
                  f'zeo_disk_free_bytes < {DISK_FULL:g} * zeo_disk_size_bytes and zeo_disk_free_bytes '
                  '< 25e7\n', 'zeo_stalled_clients > 0\n',
                  f'zeo_storage_packing_seconds >= {PACK_S:g}\n',
                  f'zeo_waiting_bytes >= {USED:g} * zeo_waiting_bytes_limit\n',
                  f'zeo_all_connections >= {USED:g} * zeo_max_connections\n',
                  f'zeo_tls_expires_seconds < {EXPIRES_S / 86400:g} * 86400\n'):
        assert f'expr: {limit}' in rules.text
    assert (DISK_LOW_BYTES, DISK_FULL_BYTES) == (5e9, 25e7)
    named = set(re.findall(r'\bzeo_(?!clone)\w+', page)) - {'zeo_tls_expires_seconds'}  # this one has no TLS
    assert len(named) > 8
    assert named <= there
    if shutil.which('promtool'):
        for kind, block in [('config', configuration), ('rules', rules)]:
            (reader.directory / block.words[0]).write_text(block.text)
            reader.run('promtool', 'check', kind, block.words[0])


def test_container_runs_what_the_server_understands(reader):
    text = only_block('operations.md', 'dockerfile').text
    program, command, *arguments = json.loads(re.search(r'^CMD (\[.*\])$', text, re.MULTILINE)[1])
    assert (program, command) == ('zeo-clone', 'serve')
    reader.run('zeo-clone', 'check', *arguments)
    assert re.search(r'^HEALTHCHECK CMD zeo-clone nagios ', text, re.MULTILINE)


@pytest.mark.parametrize('path', [CHECKOUT / 'README.md', CHECKOUT / 'zeo.conf.example', *DOCS.glob('*.md'),
                                  *(path for path in (CHECKOUT / 'examples').rglob('*.*')
                                    if path.suffix in {'.md', '.py', '.conf'})], ids=lambda path: path.name)
def test_nobody_is_told_to_type_a_name_that_zeo_installs_too(path):
    """Where it is typed, options or an address follow; pages may mention it otherwise."""
    text = path.read_text(encoding='utf-8')
    assert re.findall(fr'\b(?:{CLASSIC_NAMES})"?[ ,]+(?:["-]|\w+:\d).*', text) == []


@pytest.mark.parametrize('path', TEXTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r'\]\(([^)\s]+)', path.read_text(encoding='utf-8')):
        if '://' in target:
            continue
        name, _, anchor = target.partition('#')
        found = path.parent / name if name else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r'^#+ (.*)$', found.read_text(encoding='utf-8'), re.MULTILINE)
            assert anchor in [re.sub(r'[^\w -]', '', text).lower().replace(' ', '-') for text in headings]


def test_every_page_is_named_in_readme():
    readme = (CHECKOUT / 'README.md').read_text(encoding='utf-8')
    assert [page for page in PAGES if f'](docs/{page})' not in readme] == []


def test_every_page_is_in_the_menu_of_the_site():
    """A build of the site would say so too, but that is not a part of the suite."""
    menu = (DOCS / 'conf.py').read_text(encoding='utf-8').partition('MENU = {')[2].partition('\n}')[0]
    assert sorted(re.findall(r"'docs/([\w-]+)'", menu)) == [page.removesuffix('.md') for page in PAGES]


def test_changes_are_told_by_kind():
    """New lines go below the heading of their kind; what the reader must do comes first."""
    text = (CHECKOUT / 'CHANGES.md').read_text(encoding='utf-8')
    for release in re.split(r'^## ', text, flags=re.MULTILINE)[1:]:
        before, *kinds = re.split(r'^### ', release, flags=re.MULTILINE)
        assert before.count('\n') <= 2, f'below no kind: {before}'
        headings = [kind.partition('\n')[0] for kind in kinds]
        assert headings == [kind for kind in KINDS if kind in headings]


def proven():
    """Numbers of requirements that docstrings of tests claim."""
    found = set()
    for path in (CHECKOUT / 'tests').rglob('test_*.py'):
        for docstring in re.findall(r'"""(.*?)"""', path.read_text(encoding='utf-8'), re.DOTALL):
            found.update(re.findall(r'\b[BCKLNST]\d+[a-c]?\b', docstring))
    return found


def test_every_promise_has_a_test():
    text = (DOCS / 'guarantees.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| .* \| ([BCKLNST]\d.*) \|$', text, re.MULTILINE)
    promised = {number for row in rows for number in row.split(', ')}
    assert len(promised) > 40
    assert promised - proven() == set()
