from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import ZConfig
import ZODB.config

import zeo_clone.zconfig
from tests.support.certificates import make_certificates, revocation_list
from zeo_clone.addresses import format_address
from zeo_clone.configuration import zconfig

EXAMPLE = Path(__file__).parent.parent.parent / 'zeo.conf.example'

#: Keywords that ``<clientstorage>`` always passes on.
CLIENT_DEFAULTS = {
    'storage': '1', 'cache_size': 20 << 20, 'read_only': False,
    'read_only_fallback': False, 'server_sync': False, 'spread': False,
}


def password():
    return 'sesame'


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / 'zeo.conf'
        path.write_text(text)
        return zconfig.load(str(path))
    return load


@pytest.fixture(scope='session')
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp('certificates'))


# -- <zeo> ----------------------------------------------------------------------------------------

def test_all_keys_of_the_server_arrive(load, tmp_path, monkeypatch):
    monkeypatch.setenv('ZEO_TEST_PORT', '9123')
    configuration = load(f"""
        %define INSTANCE {tmp_path}
        <zeo>
          address localhost:$(ZEO_TEST_PORT)
          read-only true
          invalidation-queue-size 7
          invalidation-age 2h
          transaction-timeout 90
          client-conflict-resolution true
          resolve mypackage.mymodule.MyClass
          resolve otherpackage.*
          max-connections 50
          handshake-timeout 3
          frame-limit 1MB
          output-limit 64MB
          memory-limit 3MB
          socket-mode 600
          heartbeat 1m
          metrics-address 127.0.0.1:9180
          metrics-host Zeo.example.com
          metrics-host 10.0.0.1
          metrics-disconnect true
          slow-commit 1.5s
          slow-load 100ms
          allow-disconnect true
          poll-interval 500ms
          read-connections 2
          commit-connections 3
          server-cache-size 1MB
          database-patience 30
          pid-filename $INSTANCE/zeo.pid
        </zeo>
        <filestorage main>
          path $INSTANCE/Data.fs
        </filestorage>
        <mappingstorage>
        </mappingstorage>
        <eventlog>
        </eventlog>
        <runner>
          program runzeo
        </runner>
    """)
    assert configuration.zeo.address == ('localhost', 9123)
    assert configuration.zeo.pid_filename == f'{tmp_path}/zeo.pid'
    assert configuration.zeo.metrics_address == ('127.0.0.1', 9180)
    assert configuration.zeo.options == {
        'read_only': True, 'invalidation_queue_size': 7, 'invalidation_age': 7200,
        'transaction_timeout': 90, 'client_conflict_resolution': True, 'ssl': None,
        'resolve': ('mypackage.mymodule.MyClass', 'otherpackage.*'),
        'max_connections': 50, 'handshake_timeout_s': 3, 'heartbeat_s': 60,
        'frame_limit': 1 << 20, 'output_limit': 64 << 20, 'memory_limit': 3 << 20, 'socket_mode': 0o600,
        'measure': True, 'slow_commit_s': 1.5, 'slow_load_s': 0.1,
        'allow_disconnect': True, 'poll_interval_s': 0.5, 'read_connections': 2, 'commit_connections': 3,
        'server_cache_size': 1 << 20, 'database_patience_s': 30}
    assert configuration.zeo.monitor == {'hosts': ['zeo.example.com', '10.0.0.1'], 'disconnect': True}
    assert list(configuration.storages) == ['main', '1']
    assert configuration.storages['main'].config.path == f'{tmp_path}/Data.fs'
    assert configuration.eventlog is not None
    assert configuration.runner.program == ['runzeo']


def test_defaults_of_the_server_are_those_of_zeo(load):
    configuration = load('<zeo>\naddress 9100\n</zeo>')
    assert configuration.zeo.address == (None, 9100)
    assert configuration.zeo.pid_filename is configuration.zeo.metrics_address is None
    assert configuration.zeo.options == {
        'read_only': False, 'invalidation_queue_size': 100, 'invalidation_age': None,
        'transaction_timeout': None, 'client_conflict_resolution': False, 'ssl': None, 'resolve': (),
        'max_connections': 10_000, 'handshake_timeout_s': 10, 'heartbeat_s': 10,
        'frame_limit': 256 << 20, 'output_limit': 512 << 20, 'memory_limit': None, 'socket_mode': None,
        'measure': False, 'slow_commit_s': None, 'slow_load_s': None,
        'allow_disconnect': False, 'poll_interval_s': None, 'read_connections': None,
        'commit_connections': None, 'server_cache_size': None, 'database_patience_s': None}
    assert configuration.zeo.monitor == {'hosts': [], 'disconnect': False}
    assert configuration.storages == {}
    assert configuration.eventlog is configuration.runner is None


@pytest.mark.parametrize(('key', 'option', 'value'), [
    ('memory-limit 1MB', 'memory_limit', 1 << 20), ('output-limit 32MB', 'output_limit', 32 << 20),
    ('frame-limit 64KB', 'frame_limit', 64 << 10),
    ('frame-limit 4GB', 'frame_limit', 0xffffffff), ('max-connections 1', 'max_connections', 1),
    ('heartbeat 1', 'heartbeat_s', 1), ('handshake-timeout 0.1', 'handshake_timeout_s', 1)])
def test_the_least_and_the_most_of_a_limit_are_taken(load, key, option, value):
    """S12, N19: a part of a blob fits into a message, its length into four bytes.  What is beyond is a
    mistake, of which the next test has a list."""
    assert load(f'<zeo>\naddress 9100\n{key}\n</zeo>').zeo.options[option] == value


@pytest.mark.parametrize(('text', 'message', 'line'), [
    ('<zeo>\naddress 91OO\n</zeo>', "bad address '91OO': the port is missing; allowed:", 2),
    ('<zeo>\naddress 1\nmsgpack true\n</zeo>', 'this server speaks pickles only: remove msgpack', 3),
    ('\ufeff<zeo>\naddress 1\n</zeo>', 'the file begins with a byte order mark: save it as UTF-8', 1),
    ('<zeo>\naddress 1\nadress 2\n</zeo>',
     "'adress' is not a known key name; allowed in <zeo>: <ssl>, address, read-only, ", 3),
    ('<zeo>\naddress 1\n<ssl>\ncert 2\n</ssl>\n</zeo>',
     "'cert' is not a known key name; allowed in <ssl>: certificate, key, ", 4),
    ('<zeo>\naddress 1\n</zeo>\n<filestorage>\npat x\n</filestorage>',
     "'pat' is not a known key name; allowed in <filestorage>: path, ", 5),
    ('<zeo>\naddress 1\n<filestorage>\npath x\n</filestorage>\n</zeo>',
     "type='filestorage', name='None'; it does not belong within <zeo>: is </zeo> missing before it?", 3),
    ('<zeo>\naddress 1\naddress 2\n</zeo>', "'address' does not support multiple values", 3),
    ('<zeo>\n</zeo>', "'address' is missing in <zeo>", 2),
    ('<zeo>\naddress 1\n</zeo>\n<runner>\ntranscript x\n</runner>', "'program' is missing in <runner>", 6),
    ('%import zeo_clone\n<zeo>\naddress 1\n</zeo>\n<clientstorage>\n</clientstorage>',
     "'server' is missing in <clientstorage>", 6),
    ('<zeo>\naddress 1\nread-only perhaps\n</zeo>',
     "read-only: 'perhaps' is neither yes nor no, true nor false, on nor off", 3),
    ('<zeo>\naddress 1\n</zeo>\n<eventlog>\n  level inf\n</eventlog>', "level: invalid literal for int()", 5),
    ('<zeo>\naddress 1\ntransaction-timeout soon\n</zeo>', "'soon' is not a time: a whole number", 3),
    ('<zeo>\naddress 1\ntransaction-timeout -1\n</zeo>', "'-1' is not a time: a whole number", 3),
    ('<zeo>\naddress 1\ninvalidation-age -1s\n</zeo>', "'-1s' is not a time", 3),
    ('<zeo>\naddress 1\ninvalidation-queue-size -1\n</zeo>', '-1 is less than 0', 3),
    ('<zeo>\naddress 1\nread-connections 0\n</zeo>', 'read-connections: 0 is less than 1', 3),
    ('<zeo>\naddress 1\ncommit-connections 0\n</zeo>', '0 is less than 1', 3),
    ('<zeo>\naddress 1\nmemory-limit 10\n</zeo>',
     "'10' is less than the least, 1MB: give a whole number of bytes, or one with a suffix KB, MB or GB", 3),
    ('<zeo>\naddress 1\nmemory-limit 1023KB\n</zeo>', "'1023KB' is less than the least, 1MB", 3),
    ('<zeo>\naddress 1\noutput-limit 31MB\n</zeo>',
     "'31MB' is less than the least, 32MB: give a whole number of bytes", 3),
    ('<zeo>\naddress 1\nframe-limit 63KB\n</zeo>', "'63KB' is not a size from 64KB to 4GB", 3),
    ('<zeo>\naddress 1\nframe-limit 4097MB\n</zeo>', "'4097MB' is not a size from 64KB to 4GB", 3),
    ('<zeo>\naddress 1\nmax-connections 0\n</zeo>', '0 is less than 1', 3),
    ('<zeo>\naddress 1\ninvalidation-age 1e999\n</zeo>', "'1e999' is not a time", 3),
    ('<zeo>\naddress 1\ninvalidation-age 1.2.3\n</zeo>', "'1.2.3' is not a time", 3),
    ('<zeo>\naddress 1\nheartbeat 0s\n</zeo>', "'0s' is less than the least, 1 second", 3),
    ('<zeo>\naddress 1\nhandshake-timeout 0\n</zeo>', "'0' is less than the least, 1 second", 3),
    ('<zeo>\naddress 1\nresolve *\n</zeo>', "'*' names no class: give package.module.Class, or package.*", 3),
    ('<zeo>\naddress 1\nresolve Class\n</zeo>', "'Class' names no class", 3),
    ('<zeo>\naddress 1\nmetrics-address here\n</zeo>', "bad address 'here': the port is missing", 3),
    ('<zeo>\naddress 1\nmetrics-address ./m.sock\n</zeo>', "'./m.sock' is a path; metrics need HOST:PORT", 3),
    ('<zeo>\naddress 1\nslow-load 0\n</zeo>', "'0' is not a time: a number greater than 0", 3),
    ('<zeo>\naddress 1\nslow-commit 1d\n</zeo>', "'1d' is not a time: a number greater than 0", 3),
    ('<zeo>\naddress 1\nslow-commit ms\n</zeo>', "'ms' is not a time: a number greater than 0", 3),
    ('<zeo>\naddress 1\ninvalidation-queue-size x\n</zeo>', "'x' is not a whole number", 3),
    ('<zeo>\naddress 1\npid-filename /no/such/zeo.pid\n</zeo>', '/no/such/zeo.pid', 3),
    ('<zeo>\naddress 1\n<ssl>\ncertificate no.pem\n</ssl>\n</zeo>', 'no.pem is not an existing file', 4),
    ('<zeo>\naddress 1\n<ssl>\npassword-function no.such\n</ssl>\n</zeo>', "cannot import 'no.such'", 4),
    ('<zeo>\naddress 1\n</zeo>\n<filestorag>\n</filestorag>',
     "unknown type name: 'filestorag'; allowed: <zeo>, <", 4),
    ('<zeo>\naddress 1\n</zeo>\n' + 2 * '<mappingstorage a>\n</mappingstorage>\n',
     "must not be re-used within the same container:'a'", 7),
])
def test_mistake_is_reported_in_one_line_with_file_and_line(load, tmp_path, text, message, line):
    with pytest.raises(ZConfig.ConfigurationError) as caught:
        load(text)
    report = str(caught.value)
    assert message in report
    assert report.endswith(f'(file://{tmp_path}/zeo.conf, line {line})')
    assert '\n' not in report


def test_a_missing_section_is_told(load, tmp_path):
    with pytest.raises(ZConfig.ConfigurationError) as caught:
        load('<filestorage>\npath x\n</filestorage>')
    assert str(caught.value) == f'a section <zeo> is missing ({tmp_path}/zeo.conf)'


def test_an_empty_path_is_refused(load, tmp_path):
    """Else files named .lock and .tmp would be made."""
    with pytest.raises(ZConfig.ConfigurationError, match="^the 'path' of a <filestorage> is empty: "):
        load('<zeo>\naddress 1\n</zeo>\n<filestorage>\npath\n</filestorage>')


@pytest.mark.parametrize(('text', 'address'), [
    ('localhost: 9100', ('localhost', 9100)),
    ('localhost', ('localhost', 0)),
    ('zeo.example.org', ('zeo.example.org', 0)),
    ('127.0.0.1', ('127.0.0.1', 0)),
    ('[::1]', ('::1', 0)),
    (':9100', (None, 9100)),
])
def test_address_takes_what_zeo_takes(load, text, address):
    """Also a HOST alone, which is a free port there."""
    assert load(f'<zeo>\naddress {text}\nmsgpack false\n</zeo>').zeo.address == address


@pytest.mark.parametrize(('text', 'time'), [
    ('3600.0', 3600), ('0.5', 1), ('3600.', 3600), ('.5', 1), ('36e2', 3600), ('1e-3', 1)])
def test_times_may_be_decimal_numbers_as_in_zeo(load, text, time):
    """They are rounded up: nobody waits for less than was asked for."""
    assert load(f'<zeo>\naddress 1\ninvalidation-age {text}\n</zeo>').zeo.options['invalidation_age'] == time


@pytest.mark.parametrize('second', ['', ' 1'])
def test_two_storages_of_one_name_are_refused(load, tmp_path, second):
    with pytest.raises(ZConfig.ConfigurationError) as caught:
        load(f'<zeo>\naddress 1\n</zeo>\n<mappingstorage>\n</mappingstorage>\n'
             f'<mappingstorage{second}>\nname other\n</mappingstorage>')
    assert str(caught.value) == (
        "two storages are named '1' (without a name a storage is '1'): give each section a name of its "
        f'own ({tmp_path}/zeo.conf)')


def test_storage_sections_of_other_packages_work(load, tmp_path, monkeypatch):
    package = tmp_path / 'package_with_storage'
    package.mkdir()
    (package / '__init__.py').write_text('class Factory:\n'
                                         '    def __init__(self, section):\n'
                                         '        self.name = section.getSectionName()\n')
    (package / 'component.xml').write_text(
        '<component><sectiontype name="teapot" implements="ZODB.storage"'
        ' datatype="package_with_storage.Factory"/></component>')
    monkeypatch.syspath_prepend(tmp_path)
    configuration = load('%import package_with_storage\n<zeo>\naddress 1\n</zeo>\n<teapot>\n</teapot>')
    assert type(configuration.storages['1']).__module__ == 'package_with_storage'
    del sys.modules['package_with_storage']


def test_server_can_serve_what_another_server_serves(load):
    configuration = load('%import zeo_clone\n<zeo>\naddress 1\n</zeo>\n'
                         '<clientstorage>\nserver 127.0.0.1:9100\n</clientstorage>')
    assert configuration.storages['1'].addresses == [('127.0.0.1', 9100)]


def test_server_section_can_be_made_of_its_keys_alone():
    section = zconfig.server_section('read-only true\n  transaction-timeout 5', '127.0.0.1:0')
    assert section.address == ('127.0.0.1', 0)
    assert section.options['read_only'] is True
    assert section.options['transaction_timeout'] == 5
    assert zconfig.server_section('address /run/zeo.sock', '127.0.0.1:0').address == '/run/zeo.sock'


def test_mistake_in_the_keys_of_a_server_section_names_the_section():
    with pytest.raises(ZConfig.ConfigurationError, match=r"'adress' .* \(<zeo>, line 2\)$"):
        zconfig.server_section('adress 1', '127.0.0.1:0')


# -- the example ----------------------------------------------------------------------------------

def example_with_everything(tmp_path, certificates):
    """The example, with every key that is commented out put in force and its files made."""
    text = re.sub(r'^(\s*)#(?! \S)(?=.)', r'\1', EXAMPLE.read_text(), flags=re.MULTILINE)
    for source, name in [('server', 'server.pem'), ('server', 'server.key'), ('ca', 'clients.pem')]:
        shutil.copy(certificates / f'{source}.pem', tmp_path / name)
    (tmp_path / 'revoked.pem').write_bytes(revocation_list(certificates))
    return (text.replace('%define INSTANCE .', f'%define INSTANCE {tmp_path}')
            .replace('mypackage.mymodule.function', f'{__name__}.password'))


def test_example_can_be_used_as_it_stands(load):
    configuration = load(EXAMPLE.read_text())
    assert configuration.zeo.address == ('localhost', 9100)
    assert list(configuration.storages) == ['1']


def test_example_can_be_used_with_every_key_in_force(load, tmp_path, certificates):
    configuration = load(example_with_everything(tmp_path, certificates))
    assert list(configuration.storages) == ['1', 'archive']
    assert configuration.zeo.options['ssl'] is not None
    assert configuration.zeo.pid_filename == f'{tmp_path}/zeo.pid'
    assert configuration.eventlog is not None
    assert configuration.runner is not None


def test_example_shows_every_key_of_the_server_with_its_default(load, tmp_path, certificates):
    text = example_with_everything(tmp_path, certificates)
    schema = ZConfig.loadSchema(zconfig.SCHEMA)
    zeo = schema.gettype('zeo')
    sections = [*zeo, *((key, info) for key, info in schema.gettype('ssl')
                        if key not in ('check-hostname', 'server-hostname'))]
    for key, info in sections:
        if key is None:
            continue
        shown = re.search(rf'^\s*{key} (.*)', text, re.MULTILINE)
        assert shown, f'the example lacks {key}'
        if info.getdefault():  # of a key that may be repeated it is an empty list
            assert shown[1] == info.getdefault().value


@pytest.mark.parametrize('section', ['zeo', 'ssl', 'clientstorage', 'zeo-clone-client'])
def test_every_key_has_a_description(section):
    schema = ZConfig.loadSchema(zconfig.SCHEMA)
    if section not in ('zeo', 'ssl'):
        schema = ZConfig.loadSchemaFile(io.StringIO(
            '<schema><import package="ZODB"/><import package="zeo_clone"/></schema>'))
    keys = list(schema.gettype(section))
    assert len(keys) > 5
    assert [key for key, info in keys if not (info.description or info.sectiontype.description)] == []


# -- sections for clients -------------------------------------------------------------------------

def client_section(text):
    file = io.StringIO(f'%import zeo_clone\n<zodb>\n{text}\n</zodb>')
    configuration, _ = ZConfig.loadConfigFile(ZODB.config.getDbSchema(), file)
    return configuration.database[0].config.storage


def test_clientstorage_needs_only_a_server():
    section = client_section('<clientstorage>\nserver localhost:9100\n</clientstorage>')
    assert section.addresses == [('localhost', 9100)]
    assert section.keywords == CLIENT_DEFAULTS
    assert section.name is None


def test_all_keys_of_clientstorage_arrive(tmp_path):
    section = client_section(f"""
        <clientstorage main>
          server localhost:9100
          server [::1]:9101
          server {tmp_path}/zeo.sock
          storage archive
          cache-size 5MB
          cache-path {tmp_path}/main.zec
          blob-dir {tmp_path}/blobs
          shared-blob-dir true
          blob-cache-size 1GB
          blob-cache-size-check 20
          read-only true
          read-only-fallback true
          server-sync true
          spread true
          wait-timeout 5
          client-label instance 3
          heartbeat 1m
          drop-newer-cache yes
          name Main
        </clientstorage>""")
    assert section.addresses == [('localhost', 9100), ('::1', 9101), f'{tmp_path}/zeo.sock']
    assert section.keywords == {
        'storage': 'archive', 'cache_size': 5 << 20, 'cache': f'{tmp_path}/main.zec',
        'blob_dir': f'{tmp_path}/blobs', 'shared_blob_dir': True, 'blob_cache_size': 1 << 30,
        'blob_cache_size_check': 20, 'read_only': True, 'read_only_fallback': True, 'server_sync': True,
        'spread': True, 'wait_timeout': 5, 'client_label': 'instance 3', 'name': 'Main', 'heartbeat': 60,
        'drop_newer_cache': True}
    assert section.name == 'main'


def test_zeo_clone_client_takes_every_key_of_zodbs_zeoclient():
    """Only the section's name has to be changed, without install_as_ZEO()."""
    schema = ZODB.config.getDbSchema()
    values = {'server': 'localhost:9100', 'cache-size': '1MB', 'blob-cache-size': '1GB',
              'blob-cache-size-check': '20', 'min-disconnect-poll': '1', 'max-disconnect-poll': '9'}
    theirs = {key: values.get(key, 'true') for key, _ in schema.gettype('zeoclient')}
    assert {'server', 'wait', 'client', 'var', 'realm', 'drop-cache-rather-verify'} <= set(theirs)
    keys = '\n'.join(f'{key} {value}' for key, value in theirs.items())
    section = client_section(f'<zeo-clone-client>\n{keys}\n</zeo-clone-client>')
    assert section.addresses == [('localhost', 9100)]
    assert {key.replace('-', '_') for key in theirs} - {'server'} <= set(section.keywords)
    assert section.keywords['min_disconnect_poll'] == 1
    assert section.keywords['wait'] is True


def test_zeo_clone_client_has_the_defaults_of_clientstorage():
    section = client_section('<zeo-clone-client>\nserver 9100\n</zeo-clone-client>')
    assert section.keywords == CLIENT_DEFAULTS


@pytest.mark.parametrize('kind', ['clientstorage', 'zeo-clone-client'])
def test_open_makes_a_client_storage_each_time(kind, monkeypatch):
    class ClientStorage:
        def __init__(self, *arguments, **keywords):
            self.arguments, self.keywords = arguments, keywords
    face = type(sys)('zeo_clone.ClientStorage')
    face.ClientStorage = ClientStorage
    monkeypatch.setitem(sys.modules, 'zeo_clone.ClientStorage', face)
    section = client_section(f'<{kind}>\nserver localhost:9100\nserver /run/zeo.sock\n</{kind}>')
    one, other = section.open(), section.open()
    assert one is not other
    assert one.arguments == ([('localhost', 9100), '/run/zeo.sock'],)
    assert one.keywords == CLIENT_DEFAULTS


@pytest.mark.parametrize(('text', 'message'), [
    ('<clientstorage>\n</clientstorage>', 'server'),
    ('<clientstorage>\nserver localhost\n</clientstorage>', 'the port is missing'),
    ('<clientstorage>\nserver 1\nwait-timeout -1\n</clientstorage>', 'is not a time'),
    ('<clientstorage>\nserver 1\ncache-size huge\n</clientstorage>', "'huge' is not a size: a whole number"),
    ('<clientstorage>\nserver 1\nclient main\n</clientstorage>', "'client' is not a known key name"),
])
def test_mistake_in_a_client_section_is_refused(text, message):
    with pytest.raises(ZConfig.ConfigurationError, match=message):
        client_section(text)


@pytest.mark.parametrize('kind', ['clientstorage', 'zeo-clone-client'])
def test_database_is_opened_from_a_file(kind, server, tmp_path):
    path = tmp_path / 'zodb.conf'
    path.write_text(f'%import zeo_clone\n<zodb main>\n<{kind}>\n'
                    f'server {format_address(server.addr)}\n</{kind}>\n</zodb>')
    for _ in range(2):
        with contextlib.closing(ZODB.config.databaseFromURL(str(path))) as db, db.transaction() as conn:
            assert db.database_name == 'main'
            conn.root()['count'] = conn.root().get('count', 0) + 1
            assert conn.db().storage.is_connected()
    with contextlib.closing(ZODB.config.databaseFromURL(str(path))) as db, db.transaction() as conn:
        assert conn.root()['count'] == 2


def test_zope_finds_the_section_in_its_configuration(server):
    """As Zope does it: a section of its own that is a ZODB database with a mount point."""
    schema = ZConfig.loadSchemaFile(io.StringIO("""
        <schema>
          <import package="ZODB"/>
          <sectiontype name="zodb_db" datatype="ZODB.config.ZODBDatabase" extends="zodb">
            <multikey name="mount-point" attribute="mount_points"/>
          </sectiontype>
          <multisection type="zodb_db" name="+" attribute="databases"/>
        </schema>"""))
    configuration, _ = ZConfig.loadConfigFile(schema, io.StringIO(f"""
        %import zeo_clone
        <zodb_db main>
          mount-point /
          cache-size 5000
          <clientstorage>
            server {format_address(server.addr)}
            name main storage
          </clientstorage>
        </zodb_db>"""))
    with contextlib.closing(configuration.databases[0].open()) as db, db.transaction() as conn:
        assert db.storage.getName().startswith('main storage')
        assert conn.root()._p_jar.db() is db


def test_component_is_found_in_the_package_root():
    assert os.path.isfile(os.path.join(os.path.dirname(zeo_clone.__file__), 'component.xml'))


def test_schema_at_its_classic_place_reads_a_whole_configuration():
    schema = ZConfig.loadSchema(os.path.join(os.path.dirname(zeo_clone.__file__), 'schema.xml'))
    configuration, _ = ZConfig.loadConfigFile(schema, EXAMPLE.open())
    assert isinstance(configuration, zeo_clone.zconfig.Configuration)
    assert list(configuration.storages) == ['1']
