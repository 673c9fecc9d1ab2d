"""What is built and installed, and what README promises about it."""
from __future__ import annotations

import ast
import contextlib
import re
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import zeo_clone
from tests.support.certificates import make_certificates
from tests.support.distribution import build_wheel, make_environment
from tests.support.runzeo_process import Runzeo
from tests.support.tool_process import call, run_tool
from zeo_clone.addresses import format_address

pytestmark = pytest.mark.long

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / 'zeo_clone'
README = (CHECKOUT / 'README.md').read_text(encoding='utf-8')
CI = (CHECKOUT / '.ci' / 'run').read_text(encoding='utf-8')

#: Distributions whose name is not that of the package that they install.
DISTRIBUTIONS = {'zc': 'zc.lockfile', 'zope': 'zope.interface'}
#: What single functions can do without, or say how to install.
OPTIONAL = {'argparse_manpage', 'matplotlib', 'prometheus_client', 'psycopg2', 'relstorage', 'shtab'}


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='session')
def environment(wheel, tmp_path_factory):
    """The ``bin`` directory of a virtual environment with the wheel and what it requires, nothing else.

    The requirements are borrowed from our own environment, in which editable installations do not count.
    """
    return make_environment(tmp_path_factory.mktemp('environment'), wheel, sys.executable)


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name, = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


def requirements(wheel):
    """Names of what is required without any extra."""
    return {re.match(r'[\w.-]+', line)[0] for line in metadata(wheel).get_all('Requires-Dist')
            if 'extra ==' not in line}


# -- the wheel ----------------------------------------------------------------------------------------

def test_wheel_has_every_module_and_every_schema(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if '.dist-info/' not in name}
    paths = [path for kind in ('py', 'xml', 'html', 'css', 'js', 'typed')
             for path in PACKAGE.rglob(f'*.{kind}')]
    assert packed == {str(path.relative_to(CHECKOUT)) for path in paths}
    assert {'zeo_clone/schema.xml', 'zeo_clone/component.xml', 'zeo_clone/configuration/server.xml',
            'zeo_clone/py.typed'} <= packed


def test_wheel_requires_what_the_package_imports(wheel):
    imported = set()
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition('.')[0])
    foreign = imported - sys.stdlib_module_names - {'zeo_clone'} - OPTIONAL
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= requirements(wheel)


def test_wheel_has_one_version(wheel):
    assert metadata(wheel)['Version'] == zeo_clone.__version__
    assert f'## {zeo_clone.__version__} ' in (CHECKOUT / 'CHANGES.md').read_text(encoding='utf-8')


def test_wheel_states_its_licence_and_its_pythons(wheel):
    """The Pythons are those of which continuous integration takes the oldest and the newest."""
    stated = metadata(wheel)
    assert (stated['License-Expression'], stated.get_all('License-File')) == ('MIT', ['LICENSE'])
    oldest, newest = re.search(r'^OLDEST=(\d+) NEWEST=(\d+)', CI, re.MULTILINE).groups()
    classifiers = '\n'.join(stated.get_all('Classifier'))
    minors = re.findall(r'^Programming Language :: Python :: 3\.(\d+)$', classifiers, re.MULTILINE)
    assert minors == [str(minor) for minor in range(int(oldest), int(newest) + 1)]
    assert stated['Requires-Python'] == f'>=3.{oldest}'
    assert f'Python 3.{oldest} to 3.{newest}' in re.sub(r'\s+', ' ', README)
    support = (CHECKOUT / 'docs' / 'support.md').read_text(encoding='utf-8')
    assert re.findall(r'^\| 3\.(\d+) \|', support, re.MULTILINE) == minors


@pytest.mark.parametrize('arguments', [[], ['-C', CHECKOUT / 'zeo.conf.example']])
def test_installed_server_serves(environment, tmp_path, arguments):
    """T1"""
    command = [environment / 'zeo-clone', 'serve', '-a', '127.0.0.1:0']
    with Runzeo(*arguments, command=command, cwd=tmp_path, path=tmp_path) as server:
        assert list(server.ready().ruok()) == ['1']
        assert server.stop() == 0


def test_installed_package_is_a_component_for_zconfig(environment, tmp_path):
    text = '%import zeo_clone\n<clientstorage>\nserver localhost:9100\n</clientstorage>'
    output = call(environment / 'python', '-c', f'''if 1:
        import io, ZConfig, ZODB.config, zeo_clone
        section, _ = ZConfig.loadConfigFile(ZODB.config.getStorageSchema(), io.StringIO({text!r}))
        print(zeo_clone.__file__)
        print(section.storage.addresses)''', cwd=tmp_path)
    file, addresses = output.splitlines()
    assert Path(file).is_relative_to(environment.parent)
    assert addresses == "[('localhost', 9100)]"


def test_package_run_as_a_script_prints_where_to_start(environment, tmp_path):
    output = call(environment / 'python', '-m', 'zeo_clone', '--help', cwd=tmp_path)
    assert 'zeo-clone serve -a localhost:9100 -f Data.fs' in output
    assert "zeo_clone.connection(('localhost', 9100))" in output


def commands_of_the_wheel():
    """Names of the commands that pyproject.toml declares."""
    project = (CHECKOUT / 'pyproject.toml').read_text(encoding='utf-8')
    return re.findall(r'^([\w-]+) = "zeo_clone[\w.]*:main"$', project, re.MULTILINE)


def test_wheel_has_all_commands():
    assert sorted(commands_of_the_wheel()) == [
        'runzeo', 'zeo-clone', 'zeo-nagios', 'zeo-status', 'zeoctl', 'zeopack']


@pytest.mark.parametrize('name', commands_of_the_wheel())
def test_installed_command_explains_itself(environment, tmp_path, name):
    """T1"""
    code, output, complaints = run_tool('', '--help', command=[environment / name], cwd=tmp_path,
                                        path=tmp_path)
    assert (code, complaints) == (0, '')
    assert re.match(f'usage: {name} ', output, re.IGNORECASE)


def test_installed_commands_work_with_tls(environment, tmp_path):
    """T1"""
    make_certificates(tmp_path)
    (tmp_path / 'zeo.conf').write_text("""
        <zeo>
          address 127.0.0.1:0
          <ssl>
            certificate server.pem
            authenticate ca.pem
          </ssl>
        </zeo>
        <filestorage>
          path Data.fs
        </filestorage>""")
    tls = ['--ssl-ca', 'ca.pem', '--ssl-cert', 'client.pem', '--ssl-hostname', 'localhost']
    with Runzeo('-C', 'zeo.conf', command=[environment / 'runzeo'], cwd=tmp_path, path=tmp_path) as server:
        address = format_address(server.ready().address)
        for name, code in [('zeo-nagios', 0), ('zeo-status', 0), ('zeopack', 0)]:
            done = run_tool('', address, *tls, command=[environment / name], cwd=tmp_path, path=tmp_path)
            assert done[0] == code, done
            done = run_tool('', address, '--timeout', '0.5', command=[environment / name], cwd=tmp_path,
                            path=tmp_path)
            assert done[0] == {'zeo-nagios': 2}.get(name, 1), done
        assert server.stop() == 0


def test_installed_zeoctl_starts_and_stops(environment, tmp_path):
    """T1"""
    (tmp_path / 'zeo.conf').write_text(
        f'<zeo>\naddress {tmp_path}/zeo.sock\n</zeo>\n<mappingstorage>\n</mappingstorage>\n<runner>\n'
        f'program {environment}/runzeo -C {tmp_path}/zeo.conf\nsocket-name {tmp_path}/zdsock\n</runner>')

    def zeoctl(action):
        return run_tool('', '-C', 'zeo.conf', action, command=[environment / 'zeoctl'], cwd=tmp_path,
                        path=tmp_path)

    try:
        assert zeoctl('start')[0] == 0
        assert zeoctl('status')[1].startswith('program running; pid=')
    finally:
        code, output, _ = zeoctl('stop')
    assert (code, zeoctl('status')[0]) == (0, 3), output


def test_installed_package_has_a_resolver_for_zodburi(environment, tmp_path):
    """Found the way zodburi finds it.  zodburi itself brings real ZEO, whose commands have our names."""
    output = call(environment / 'python', '-c', """if 1:
        from importlib.metadata import entry_points
        resolver, = entry_points(group='zodburi.resolvers', name='zeo-clone')
        factory, options = resolver.load()('zeo-clone://localhost:9100/?storage=1&database_name=main')
        print(factory.__module__, options['database_name'])""", cwd=tmp_path)
    assert output == 'zeo_clone.configuration.uri main\n'


# -- README -------------------------------------------------------------------------------------------

def commands():
    """The lines of README's shell blocks."""
    blocks = re.findall(r'```sh\n(.*?)```', README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_readme_opens_with_a_line_that_serves_and_a_line_that_tests():
    serve, tests = commands()[:2]
    assert re.fullmatch(r'python3 -m venv \S+ && \S+/pip install \S+ && '
                        r'\S+/zeo-clone serve -a localhost:9100 -f Data.fs', serve)
    assert re.fullmatch(r'python3 -m venv .* -m pytest -n 4 --dist loadscope', tests)
    assert serve.split(' && ')[0] == tests.split(' && ')[0]


def test_first_steps_of_readme_work_as_they_stand(tmp_path):
    first_steps, = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    with Runzeo('-a', '127.0.0.1:0', cwd=tmp_path) as server:
        address = server.ready().address
        code = first_steps.replace("('localhost', 9100)", repr(address))
        assert code != first_steps
        call(sys.executable, '-W', 'error', '-c', code, cwd=CHECKOUT)
        with contextlib.closing(zeo_clone.connection(address)) as conn:
            assert conn.root()['list'] == ['a', 'b', 1.0, 3]
            assert conn.root()['dict'] == {'a': 1, 'b': 4}
        assert server.stop() == 0


def test_continuous_integration_runs_the_line_of_readme():
    """It finds the line by this pattern; another line that fits would be run in its place."""
    pattern = re.search(r"grep -m 1 -E '(.*)' README.md", CI)[1]
    assert re.findall(pattern, README, re.MULTILINE) == [commands()[1]]


def test_source_tour_of_readme_names_what_is_there():
    tour = README.partition('## Source tour')[2]
    named = re.findall(r'`(\w[\w/]*(?:/|\.py|\.xml))`', tour)
    assert named
    for name in named:
        assert (PACKAGE / name).exists() or (CHECKOUT / name).exists(), name
    rooms = {f'{path.parent.name}/' for path in PACKAGE.glob('*/__init__.py')}
    assert rooms <= set(named)
