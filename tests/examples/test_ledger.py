"""examples/ledger.py: the same books in a file and on a server."""
from __future__ import annotations

import shutil
from decimal import Decimal

import pytest
from ZODB.FileStorage import FileStorage

from tests.examples.programs import EXAMPLES, LIMIT_S, Gate, run_example, text_of
from tests.support.proxy import UP
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.once

LINE = '  %include ledger-local.conf\n'
OTHER_LINE = '  %include ledger-server.conf\n'


class Books:
    """The configurations of the ledger, copied to a directory, and the program run there.

    `program` starts programs.
    """

    def __init__(self, directory, program):
        self.directory = directory
        self._program = program
        for path in EXAMPLES.glob('ledger*.conf'):
            shutil.copy(path, directory)

    def change_the_line(self, address):
        """Go to the server; its address is that of the test."""
        config = self.directory / 'ledger.conf'
        text = config.read_text()
        assert text.count(LINE) == 1
        config.write_text(text.replace(LINE, OTHER_LINE))
        self.name_server(address)

    def name_server(self, address):
        server = self.directory / 'ledger-server.conf'
        server.write_text(''.join(
            f'  server {text_of(address)}\n' if line.strip().startswith('server ') else line
            for line in server.read_text().splitlines(keepends=True)))

    def run(self, *arguments):
        """(exit code, stdout, stderr)"""
        return run_example('ledger.py', 'ledger.conf', *arguments, cwd=self.directory)

    def start(self, *arguments):
        return self._program('ledger.py', 'ledger.conf', *arguments, cwd=self.directory)

    def balances(self):
        code, output, errors = self.run('balance')
        assert (code, errors) == (0, '')
        return {name: amount for amount, name in (line.split() for line in output.splitlines())}


@pytest.fixture
def books(tmp_path, program):
    return Books(tmp_path, program)


@pytest.fixture
def served_books(books, server_process):
    books.change_the_line(server_process.address)
    return books


@pytest.fixture
def ledger(examples_path):
    import ledger
    return ledger


def test_one_changed_line_takes_the_books_to_a_server(books):
    assert books.run('add', 'Opening', 'cash', 100, 'equity', -100) == (0, 'entered as number 1\n', '')
    with ServerProcess([{'kind': 'file', 'path': str(books.directory / 'ledger.fs')}]) as server:
        books.change_the_line(server.address)
        added = books.run('add', 'Food', 'food', '6.40', 'tips', '.6', 'cash', -7)
        assert added == (0, 'entered as number 2\n', '')
        code, output, _ = books.run('history', 'cash')
    assert code == 0
    assert [line.split()[2:] for line in output.splitlines()] == [
        ['100.00', '100.00', 'Opening'], ['-7.00', '93.00', 'Food']]
    shutil.copy(EXAMPLES / 'ledger.conf', books.directory)
    assert books.balances() == {
        'cash': '93.00', 'equity': '-100.00', 'food': '6.40', 'tips': '0.60', 'sum': '0.00'}


def test_a_file_has_only_one_user_at_a_time(books):
    storage = FileStorage(str(books.directory / 'ledger.fs'))
    assert books.run('balance') == (
        1, '', 'ledger.py: the books are open in another program; on a server both could use them\n')
    storage.close()


def test_the_loser_of_a_conflict_enters_it_again(served_books, server_process):
    """The commit of one is held while another one posts to the same account."""
    with Gate(server_process.address) as gate:
        assert served_books.run('add', 'Opening', 'cash', 100, 'equity', -100)[0] == 0
        served_books.name_server(gate.address)
        gate.hold(UP, b'vote')
        slow = served_books.start('add', 'Slow', 'food', 1, 'cash', -1)
        assert gate.held.wait(LIMIT_S)
        served_books.name_server(server_process.address)
        assert served_books.run('add', 'Fast', 'food', 2, 'cash', -2)[1] == 'entered as number 2\n'
        gate.let_go()
        assert slow.wait() == 0
        assert slow.output == 'entered as number 3\n'
    assert sum(b'tpc_abort' in frame for _, frame in gate.record) == 1
    assert served_books.balances() == {'cash': '97.00', 'equity': '-100.00', 'food': '3.00', 'sum': '0.00'}


def test_no_entry_is_lost_when_many_are_made_at_once(served_books):
    amounts = range(1, 4)
    running = [served_books.start('add', 'Tea', 'food', amount, 'cash', -amount) for amount in amounts]
    numbers = []
    for program in running:
        assert program.wait() == 0, program.errors()
        numbers.append(int(program.output.removeprefix('entered as number ')))
    assert sorted(numbers) == [1, 2, 3]
    assert served_books.balances() == {'cash': '-6.00', 'food': '6.00', 'sum': '0.00'}


def test_an_entry_that_does_not_balance_is_refused(books):
    assert books.run('add', 'Bad', 'cash', 5, 'food', '-4.50') == (
        1, '', 'ledger.py: the entry does not balance: its postings sum to 0.50, not to 0\n')
    assert books.balances() == {'sum': '0'}


@pytest.mark.parametrize(('words', 'complaint'), [
    (['cash', '0'], 'an entry needs two postings or more'),
    (['cash', '5', 'food'], "there is no amount for the account 'food'"),
    (['cash', '1.001', 'food', '-1.001'], "'1.001' is not an amount"),
    (['cash', 'nan', 'food', '1'], "'nan' is not an amount"),
    (['cash', 'Infinity', 'food', '-Infinity'], "'Infinity' is not an amount"),
    (['cash', '1e400', 'food', '-1e400'], "'1e400' is not an amount"),
    (['cash', '1000000000000', 'food', '-1000000000000'], "'1000000000000' is not an amount"),
    (['cash', 'five', 'food', '-5'], "'five' is not an amount"),
])
def test_what_is_no_entry_is_refused(ledger, words, complaint):
    with pytest.raises(ledger.Refused, match=complaint):
        ledger.check(ledger.parse_postings(words))


def test_a_refused_entry_leaves_nothing_behind(ledger):
    books = ledger.Ledger()
    with pytest.raises(ledger.Refused):
        books.add('Bad', [('cash', Decimal(1)), ('food', Decimal(1))])
    assert not books.accounts
    assert not books.entries


def test_an_account_that_is_not_there_has_no_history(ledger):
    with pytest.raises(ledger.Refused, match='there is no account cash'):
        ledger.Ledger().history('cash')


def test_an_account_may_be_on_both_sides_of_an_entry(ledger):
    books = ledger.Ledger()
    books.add('Round trip', [('cash', Decimal(1)), ('cash', Decimal(-1))])
    (number, _, text, amount, balance), = books.history('cash')
    assert (number, text, amount, balance) == (1, 'Round trip', 0, 0)


def test_a_server_that_is_not_there_is_one_line(books):
    books.change_the_line(books.directory / 'zeo.sock')
    server = books.directory / 'ledger-server.conf'
    server.write_text(server.read_text().replace('wait-timeout 5', 'wait-timeout 0'))
    code, _, errors = books.run('balance')
    assert code == 1
    assert errors.startswith('ledger.py: no connection to a server at ')
    assert errors.count('\n') == 1
