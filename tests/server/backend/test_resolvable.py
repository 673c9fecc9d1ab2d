"""Which classes may resolve conflicts on the server is the operator's word, and nothing else is imported."""
from __future__ import annotations

import importlib
import logging
import pkgutil
import sys

import BTrees
import pytest
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree, OOBucket

from zeo_clone.server.backend.resolvable import DEFAULT, Resolvable, check_key


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package ``shop``, not yet imported, that says when it is."""
    (tmp_path / 'shop').mkdir()
    (tmp_path / 'shop' / '__init__.py').write_text('')
    (tmp_path / 'shop' / 'goods.py').write_text(
        'from subprocess import Popen\nfrom shop.models import Item\nclass Basket: pass\ndef sell(): pass\n'
        'from persistent import Persistent\nclass Shelf(Persistent): pass\n')
    (tmp_path / 'shop' / 'models.py').write_text('class Item: pass\n')
    (tmp_path / 'shop' / 'broken.py').write_text('1 / 0\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    for name in [name for name in sys.modules if name.partition('.')[0] == 'shop']:
        del sys.modules[name]


def imported():
    return sorted(name for name in sys.modules if name.partition('.')[0] == 'shop')


def test_btrees_need_not_be_named():
    """S9: all of them, under the names of today and of yesterday."""
    resolvable = Resolvable()
    assert resolvable.find('BTrees.OOBTree', 'OOBTree') is OOBTree
    assert resolvable.find('BTrees._OOBTree', 'OOBucket') is OOBucket
    assert resolvable.find('BTrees.Length', 'Length') is Length
    families = [module.name for module in pkgutil.iter_modules(BTrees.__path__)
                if module.name.startswith('_') and module.name.endswith('BTree')]
    assert len(families) > 20
    for family in families:
        prefix = family[1:].removesuffix('BTree')
        for kind in ('BTree', 'Bucket', 'TreeSet', 'Set'):
            found = resolvable.find(f'BTrees.{prefix}BTree', f'{prefix}{kind}')
            assert hasattr(found, '_p_resolveConflict')


def test_every_default_that_is_installed_is_a_class():
    """S9: a spelling mistake would make it a conflict for ever."""
    resolvable = Resolvable()
    missing = [pair for pair in DEFAULT if resolvable.find(*pair) is None]
    assert len(DEFAULT) - len(missing) > 150
    for module, _ in missing:
        with pytest.raises(ImportError):
            importlib.import_module(module)


@pytest.mark.parametrize(('module', 'name'), [
    ('shop.models', 'Item'), ('os', 'system'), ('BTrees.check', 'Walker'), ('BTrees.OOBTree', 'OOBTreePy'),
    ('persistent.mapping', 'PersistentMapping'), ('builtins', 'object'), ('', ''),
    ('BTrees.Length', 'Length.x')])
def test_what_is_not_named_is_not_imported(package, module, name):
    """S9."""
    resolvable = Resolvable(['elsewhere.Item', 'shopping.*'])
    before = set(sys.modules)
    assert resolvable.find(module, name) is None
    assert resolvable.maker(module, name) is None
    assert set(sys.modules) == before


def test_a_class_that_is_named_is_found(package):
    """S9: and nothing beside it."""
    resolvable = Resolvable(['shop.models.Item'])
    assert imported() == []
    assert resolvable.find('shop.models', 'Item').__name__ == 'Item'
    assert resolvable.find('shop.goods', 'Basket') is None
    assert imported() == ['shop', 'shop.models']


def test_all_classes_of_a_package_can_be_named(package):
    """S9: its own ones; functions, and what it has imported from elsewhere, are none of them."""
    resolvable = Resolvable(['shop.*'])
    assert resolvable.find('shop.goods', 'Basket').__name__ == 'Basket'
    assert resolvable.find('shop.goods', 'Item') is resolvable.find('shop.models', 'Item') is not None
    assert resolvable.find('shop.goods', 'Popen') is None
    assert resolvable.find('shop.goods', 'sell') is None
    assert resolvable.find('shop.broken', 'Item') is None
    assert resolvable.find('shop.nowhere', 'Item') is None
    assert resolvable.find('shopping.goods', 'Basket') is None


def test_objects_inside_of_states_are_not_persistent(package):
    """S9."""
    resolvable = Resolvable(['shop.*'])
    assert resolvable.maker('shop.goods', 'Basket') is not None
    assert resolvable.maker('shop.goods', 'Shelf') is None
    assert resolvable.maker('BTrees.OOBTree', 'OOBTree') is None


def test_a_name_that_leads_nowhere_is_told_at_start(package, caplog):
    """S9: the operator sees it before the first conflict."""
    with caplog.at_level(logging.INFO, 'zeo_clone'):
        Resolvable(['shop.models.Item', 'shop.models.Itme', 'shop.broken.Item', 'shop.*']).import_named()
    assert [record.getMessage().partition(':')[0] for record in caplog.records] == [
        'resolve shop.models.Itme', 'resolve shop.broken.Item']
    assert 'there is no such class here' in caplog.text
    assert 'shop.models' in sys.modules


@pytest.mark.parametrize('key', ['package.*', 'package.module.*', 'package.module.Class', 'module.Class'])
def test_keys_are_classes_and_packages(key):
    assert check_key(key) == key


@pytest.mark.parametrize('key', ['', '*', 'Class', '.*', 'package.', 'package*', 'package.Cl*', 'a b.C',
                                 'a..C', 'a.*.C'])
def test_other_keys_are_refused(key):
    with pytest.raises(ValueError, match='names no class: give package.module.Class'):
        check_key(key)
