"""Every argument of a client is seen by ``help()``, editors, type checkers and readers of the docs.  T1."""
from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from mypy import api

import zeo_clone
from zeo_clone.client.arguments import IGNORED, SIGNATURE, arguments
from zeo_clone.client.options import make_options
from zeo_clone.ClientStorage import ClientStorage

CHECKOUT = Path(zeo_clone.__file__).parent.parent
PAGE = (CHECKOUT / 'docs' / 'client.md').read_text(encoding='utf-8')
#: What the page says of a default in words.
IN_WORDS = {'': inspect.Parameter.empty, '20 MiB': 20 << 20, 'the address': '', 'the process': None}
TAKING = [zeo_clone.client, zeo_clone.DB, zeo_clone.connection, ClientStorage]


@pytest.mark.parametrize('taking', TAKING)
def test_all_that_take_them_show_them(taking):
    """T1"""
    assert (list(inspect.signature(taking).parameters.values()) == list(SIGNATURE.parameters.values()))
    described = inspect.getdoc(taking.__init__ if taking is ClientStorage else taking)
    assert set(re.findall(r'``(\w+)``', described)) >= set(SIGNATURE.parameters)


def test_the_page_has_each_with_its_default():
    """T1"""
    table = re.search(r'^\| argument \|.*?\n\n', PAGE, re.MULTILINE | re.DOTALL)[0]
    told = {}
    for names, default in re.findall(r'^\| (`.*?) \| (.*?) ?\|', table, re.MULTILINE):
        value = IN_WORDS[default] if default in IN_WORDS else ast.literal_eval(default.strip('`'))
        told.update(dict.fromkeys(re.findall(r'`(\w+)`', names), value))
    assert told == {name: parameter.default for name, parameter in SIGNATURE.parameters.items()
                    if name not in IGNORED}
    ignored = re.search(r'^([^\n.|]*) are accepted, as in\nZEO', PAGE, re.MULTILINE)[1]
    assert sorted(re.findall(r'`(\w+)`', ignored)) == sorted(IGNORED)


def test_what_ZEO_ignores_is_accepted():
    """T1"""
    assert make_options(arguments(1, **dict.fromkeys(IGNORED, 'x'))) == make_options(arguments(1))


@pytest.mark.parametrize('size', ['20MB', -1])
def test_a_cache_size_that_is_no_number_of_bytes_is_told_by_its_name(size):
    """N18"""
    with pytest.raises(ValueError, match=f"^cache_size is '?{size}'?; it must be a whole number, 0 or more$"):
        make_options(arguments(1, cache_size=size))


@pytest.mark.parametrize('taking', TAKING)
@pytest.mark.parametrize(('given', 'keywords', 'complaint'), [
    ((), {}, r"ClientStorage\(\) missing 1 required positional argument: 'addr'"),
    ((1,), {'cach_size': 5}, "ClientStorage does not know the argument 'cach_size'; it knows addr, .*world$"),
    ((1, '1', 0, '', 1, 1), {}, r'ClientStorage\(\) takes from 1 to 5 positional arguments but 6 were'),
    (('localhost', 9100), {}, r"Give host and port as one: ClientStorage\(\('localhost', 9100\)\)"),
])
def test_wrong_ones_are_told(taking, given, keywords, complaint):
    """N18"""
    with pytest.raises(TypeError, match=complaint):
        taking(*given, **keywords)


@pytest.mark.once
def test_type_checkers_see_them(tmp_path):
    """T1"""
    (tmp_path / 'user.py').write_text('''if 1:
        import zeo_clone
        from zeo_clone.ClientStorage import ClientStorage
        zeo_clone.DB(("localhost", 9100), cache_size=5, wait=False)
        zeo_clone.client(9100, "1", wait_timeout="soon")
        zeo_clone.connection(9100, cach_size=5)
        ClientStorage(9100, read_onyl=True)
        ClientStorage(9100).is_connected()
    ''')
    out, err, _ = api.run(['--config-file', str(CHECKOUT / 'pyproject.toml'), str(tmp_path / 'user.py')])
    assert not err
    assert re.findall(r'user.py:(\d+): error: ', out) == ['5', '6', '7'], out
    assert 'keyword argument "cach_size" for "connection"' in out
