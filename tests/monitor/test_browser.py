"""The page for people, in a real browser without a screen."""
from __future__ import annotations

import contextlib
import os
import re
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import z64

import zeo_clone
from tests.monitor.test_process import monitor_of
from tests.support.runzeo_process import Runzeo

BROWSER, DRIVER = '/usr/bin/chromium', '/usr/bin/chromedriver'
#: Of Chromium in a container, without a screen, with little shared memory.
OPTIONS = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
           '--window-size=1280,1600', '--disable-background-networking', '--no-first-run')
LIMIT_S = 60
LABEL = '<b onclick="x()">instance</b> & "1"'

pytestmark = [pytest.mark.once, pytest.mark.skipif(
    not (os.path.exists(BROWSER) and os.path.exists(DRIVER)),
    reason=f'there is no {BROWSER} or no {DRIVER}: apt-get install chromium chromium-driver')]


@pytest.fixture
def browser():
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    for option in OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def server(tmp_path):
    (tmp_path / 'zeo.conf').write_text(
        f'<zeo>\naddress 127.0.0.1:0\nmetrics-address 127.0.0.1:0\n</zeo>\n'
        f'<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n')
    with Runzeo('-C', tmp_path / 'zeo.conf') as server:
        yield server


@contextlib.contextmanager
def load(address, storage='1'):
    """A client that reads and commits as long as the block runs."""
    enough = threading.Event()

    def work():
        connection = zeo_clone.connection(address, client_label=LABEL, cache_size=0, storage=storage)
        with contextlib.closing(connection):
            root, number = connection.root(), 0
            while not enough.wait(0.01):
                number += 1
                root['number'] = number
                connection.transaction_manager.commit()
                connection.cacheMinimize()
                connection.db().storage.loadBefore(z64, b'\x7f' + b'\xff' * 7)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


#: Texts of the page whose contrast to what is behind them is too small (WCAG 2 AA, 1.4.3), with the ratio.
CONTRAST = """
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(part => part / 255).map(
      part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    ).reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = element => {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(element).backgroundColor);
      return alpha || !element.parentElement ? [r, g, b] : behind(element.parentElement);
    };
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let count = 0;
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
      count += 1;
      const style = getComputedStyle(element), size = parseFloat(style.fontSize);
      const large = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700;
      const both = [light(parse(style.color)), light(behind(element))].sort((a, b) => a - b);
      const ratio = (both[1] + 0.05) / (both[0] + 0.05);
      if (ratio < (large ? 3 : 4.5)) found.push([element.textContent, ratio]);
    }
    return [count, found];
"""


class Page:
    """What a person sees."""

    def __init__(self, browser):
        self._browser = browser

    def text(self, selector):
        return self._browser.execute_script(
            'return document.querySelector(arguments[0])?.innerText ?? ""', selector)

    def number(self, key):
        """The large number of a chart's card."""
        return self.number_at(f'[data-key={key}] .value')

    def number_at(self, selector):
        """The number there; no number while the page has no such place."""
        return float(self.text(selector).replace(',', '').replace('–', '0') or 'nan')

    def curve(self, key):
        """The corners of a chart's first line."""
        return self._browser.execute_script(
            'return document.querySelector(`[data-key=${arguments[0]}] path.k0:not(.area)`).getAttribute("d")'
            '.split(/[ML]/).filter(Boolean)', key)

    def wait(self, condition):
        """Until the page has come to where `condition` holds."""
        from selenium.webdriver.support.wait import WebDriverWait
        WebDriverWait(self._browser, LIMIT_S, poll_frequency=0.05).until(lambda _: condition())

    def prefer(self, scheme):
        """The user prefers the colours of `scheme`."""
        self._browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {
            'features': [{'name': 'prefers-color-scheme', 'value': scheme}]})

    def background(self, scheme):
        """The page's colours if the user prefers `scheme`: paper and ink, as sums of red, green, blue."""
        self.prefer(scheme)
        return [sum(self._browser.execute_script(
            'return getComputedStyle(document.body)[arguments[0]].match(/\\d+/g).slice(0, 3).map(Number)',
            name)) for name in ('backgroundColor', 'color')]


def test_page_shows_what_goes_on_and_that_the_server_has_gone(browser, server):
    """Renders; its numbers move under load; it says so when the server has gone."""
    host, port = monitor_of(server)
    server.ready()
    page = Page(browser)
    browser.get(f'http://{host}:{port}/?every=0.2')
    page.wait(lambda: page.text('#light') == 'live')
    assert page.text('h1') == 'ZODB server at {}:{}'.format(*server.address)
    page.wait(lambda: len(page.curve('clients')) > 2)
    assert page.number('clients') == page.number('loads') == page.number('commits') == 0
    assert page.text('.lock') == 'free'

    with load(server.address):
        page.wait(lambda: page.number('clients') == 1 and page.number('loads') > 1
                  and page.number('commits') > 1)
        page.wait(lambda: all('s' in text.split(' ')[-1] for text in (
            page.text('[data-key=load] .legend'), page.text('[data-key=commit] .legend'))))
        heights = {float(corner.split(' ')[1].removesuffix('h0.01')) for corner in page.curve('commits')}
        assert len(heights) > 1
        page.wait(lambda: LABEL in page.text('table.clients'))
        assert browser.execute_script('return document.querySelectorAll("b[onclick]").length') == 0

    hold_the_lock(server.address, page)

    light, dark = page.background('light'), page.background('dark')
    assert light[0] > 600 > 200 > light[1]
    assert dark[0] < 200 < 600 < dark[1]

    severe = [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE']
    assert severe == []
    assert server.stop() == 0
    page.wait(lambda: page.text('#light') == 'gone')
    assert page.text('#alarm').startswith('The server has gone\nIt does not answer')
    assert browser.title.startswith('GONE – ZODB server at ')
    for entry in browser.get_log('browser'):
        assert entry['level'] != 'SEVERE' or '/status.json - Failed to load' in entry['message'], entry


def hold_the_lock(address, page):
    """The page names who holds the commit lock and who waits, text for text."""
    with contextlib.closing(zeo_clone.client(address, client_label='holder')) as storage:
        meta = TransactionMetaData('jane', '<i>moves</i> the world')
        storage.tpc_begin(meta)
        storage.store(b'1' * 8, z64, b'cN\nN\n.', '', meta)
        storage.tpc_vote(meta)
        # Until the page is renewed it shows who held the lock during the load before.
        page.wait(lambda: '(holder), voted; user jane, <i>moves</i> the world' in page.text('.lock ~ .soft'))
        assert page.text('.lock').startswith('held for ')
        storage.tpc_abort(meta)
    page.wait(lambda: page.text('.lock') == 'free')


# -- trouble ------------------------------------------------------------------------------------------

@pytest.fixture
def troubled(new_server, new_monitor, browser):
    """A server whose storages are ``a``, ``empty`` and ``z``, and its page: (server, page)."""
    server = new_server({name: MappingStorage() for name in ('a', 'empty', 'z')}, measure=True)
    for name in 'az':
        zeo_clone.DB(server.addr, storage=name).close()
    browser.get(f'{new_monitor(server).url}?every=0.2')
    page = Page(browser)
    page.wait(lambda: page.text('#light') == 'live')
    return server, page


@contextlib.contextmanager
def lock_held(server, client, seconds=39):
    """The commit lock of storage z is held, for so long so far."""
    storage = client(server.addr, storage='z', client_label='holder')
    meta = TransactionMetaData('jane', '/edit')
    storage.tpc_begin(meta)
    storage.store(b'1' * 8, z64, b'cN\nN\n.', '', meta)
    storage.tpc_vote(meta)
    server.served['z'].stats.lock_time -= seconds
    try:
        yield
    finally:
        storage.tpc_abort(meta)


@contextlib.contextmanager
def somebody_waits(server, client):
    storage, meta = client(server.addr, storage='z'), TransactionMetaData()
    storage.tpc_begin(meta)
    thread = threading.Thread(target=storage.tpc_vote, args=(meta,))
    thread.start()
    yield
    thread.join()
    storage.tpc_abort(meta)


def storages(browser):
    """Names of the storages from top to bottom, and whether each is open."""
    return browser.execute_script(
        'return [...document.querySelectorAll("details")].map(part => [part.dataset.storage, part.open])')


def test_commit_lock_that_is_held_looks_like_trouble(browser, troubled, client):
    """L1.  Light, title and bar; the storage comes first; an empty one is folded."""
    server, page = troubled
    assert storages(browser) == [['a', True], ['empty', False], ['z', True]]
    assert (page.text('#spoken'), browser.title[:4]) == ('', 'ZODB')
    with contextlib.ExitStack() as waiting:
        with lock_held(server, client):
            page.wait(lambda: page.text('#light') == 'warning')
            assert browser.title.startswith('WARNING – ZODB server at ')
            assert 'storage z: the commit lock has been held for ' in page.text('#alarm')
            assert '(holder), voted, user jane, /edit; nobody waits' in page.text('#alarm')
            assert storages(browser) == [['z', True], ['a', True], ['empty', False]]
            waiting.enter_context(somebody_waits(server, client))
            page.wait(lambda: page.text('#light') == 'alarm')
            assert browser.title.startswith('ALARM – ')
            assert '; 1 transaction waits\nSee what that client does' in page.text('#alarm')
            assert page.text('details[data-storage=z] .mark') == 'ALARM'
            assert page.text('#spoken').startswith('alarm. the commit lock has been held for ')
    page.wait(lambda: page.text('#light') == 'live')
    assert page.text('#alarm') == ''
    assert storages(browser) == [['a', True], ['empty', False], ['z', True]]


def test_storage_that_has_failed_looks_like_trouble(browser, troubled):
    """L9"""
    server, page = troubled
    server.served['empty'].backend.failures.latest = 'tpc_finish: OSError: [Errno 28] No space left on device'
    page.wait(lambda: page.text('#light') == 'alarm')
    assert 'storage empty: it has failed in tpc_finish: OSError: [Errno 28] No space' in page.text('#alarm')
    assert storages(browser) == [['empty', True], ['a', True], ['z', True]]


def test_every_text_can_be_read_in_both_schemes_also_in_trouble(browser, troubled, client):
    """WCAG AA: contrast."""
    server, page = troubled
    for scheme in ('light', 'dark'):
        page.prefer(scheme)
        with lock_held(server, client):
            page.wait(lambda: page.text('#light') == 'warning')
            count, bad = browser.execute_script(CONTRAST)
            assert (count > 100, bad) == (True, [])
        server.served['a'].backend.failures.latest = 'tpc_finish: broken'
        page.wait(lambda: page.text('#light') == 'alarm')
        assert browser.execute_script(CONTRAST)[1] == []
        server.served['a'].backend.failures.latest = None
        page.wait(lambda: page.text('#light') == 'live')
        assert browser.execute_script(CONTRAST)[1] == []
        browser.execute_script('complain("gone", "The server has gone", "It does not answer")')
        assert browser.execute_script(CONTRAST)[1] == []


def test_whatever_keys_reach_has_a_name_and_tables_have_captions(browser, troubled, client):
    """WCAG AA: names, roles, values."""
    server, page = troubled
    client(server.addr, storage='a', client_label=LABEL).ping()
    page.wait(lambda: LABEL in page.text('details[data-storage=a] table.clients'))
    reached = browser.find_elements('css selector', 'a, button, summary, [tabindex]')
    names = [element.accessible_name for element in reached if element.is_displayed()]
    assert len(names) == 4 + 3 + 2 * (6 + 2)
    assert all(names)
    assert 'Loads per second, storage a' in names
    assert page.text('details[data-storage=a] .clients caption') == 'Clients of storage a: 1'
    nameless = 'table:not(:has(caption)), th:not([scope])'
    assert not browser.find_elements('css selector', nameless)


def test_charts_can_be_gone_through_with_keys(browser, troubled):
    """WCAG AA: keyboard."""
    from selenium.webdriver.common.keys import Keys
    _, page = troubled
    page.wait(lambda: browser.execute_script('return storages.get("a").points.length') > 3)
    chart = browser.find_element('css selector', 'details[data-storage=a] [data-key=clients] svg')
    text = lambda: chart.get_attribute('aria-valuetext')  # noqa: E731
    assert text() == '0'
    chart.send_keys(Keys.ARROW_LEFT)
    assert re.fullmatch(r'\d\d:\d\d:\d\d: 0', text())
    assert int(chart.get_attribute('aria-valuemin')) <= int(chart.get_attribute('aria-valuenow')) <= 0
    assert page.text('details[data-storage=a] [data-key=clients] .scale').strip()[2:3] == ':'
    chart.send_keys(Keys.ESCAPE)
    assert text() == '0'


def test_gap_is_shown_as_a_gap(browser, troubled):
    """What was not heard is not drawn."""
    def runs(times):
        return browser.execute_script(
            'const chart = storages.get("a").charts[0];'
            'chart.show(arguments[0].map(time => ({time, wall: 0, loads: 1})));'
            'return chart.paths[0].getAttribute("d").split("M").length - 1', times)
    assert runs([0, 1, 2, 3, 4]) == 1
    assert runs([0, 1, 2, 30, 31]) == 2


def test_narrow_page_is_not_wider_than_the_screen(browser, troubled, client):
    """WCAG AA: reflow at 320 pixels."""
    server, page = troubled
    with lock_held(server, client):
        page.wait(lambda: page.text('#light') == 'warning')
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
            'width': 320, 'height': 800, 'deviceScaleFactor': 1, 'mobile': False})
        page.wait(lambda: browser.execute_script('return innerWidth') == 320)
        assert browser.execute_script('return document.documentElement.scrollWidth') <= 320


def test_who_loads_what_is_shown_with_classes_and_sizes(browser, troubled):
    server, page = troubled
    with load(server.addr, 'a'):
        page.wait(lambda: page.text('details[data-storage=a] .hot td:nth-child(2)')
                  == 'persistent.mapping.PersistentMapping')
        assert page.text('details[data-storage=a] .hot td') == '0x0'
        page.wait(lambda: page.number_at('details[data-storage=a] .clients td:nth-child(5)') > 0)
    assert 'database' in page.text('details[data-storage=a] .more')
    assert 'No conflicts' in page.text('details[data-storage=a] .more')
