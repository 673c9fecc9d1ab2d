"""The ZEO tutorial, typed as it stands into several processes at once.

What one commits the others see at their next transaction; the second of two conflicting changes gets
ConflictError; what was read before is served from the local cache until its invalidation comes.
"""
from __future__ import annotations

import pytest

from tests.support.console_process import RemoteError

OPEN = """
from zeo_clone import ClientStorage
from ZODB import DB
import transaction
storage = ClientStorage.ClientStorage(('localhost', 9100))
db = DB(storage); conn = db.open(); root = conn.root()
"""
CHANGE = """
root['list'] = ['a', 'b', 1.0, 3]; root['dict'] = {'a': 1, 'b': 4}
"""
COMMIT = 'transaction.commit()'

LOADS = "storage.server_status()['loads']"
MINIMIZE = 'conn.cacheMinimize()'  # the objects leave memory, the storage's cache keeps them


def typed(text, server):
    """The tutorial's text with the port that the system chose."""
    return text.replace('9100', str(server.address[1]))


@pytest.fixture
def prompts(server_process, console):
    """Two processes into which the tutorial's first lines were typed."""
    one, other = console(), console()
    for prompt in (one, other):
        prompt.run(typed(OPEN, server_process))
    return one, other


def test_the_tutorial_works_as_it_stands(server_process, console):
    prompt = console()
    prompt.run(typed(OPEN + CHANGE + COMMIT, server_process))
    assert prompt.run('root') == {'list': ['a', 'b', 1.0, 3], 'dict': {'a': 1, 'b': 4}}


def test_a_process_that_starts_later_reads_what_was_committed(server_process, console):
    console().run(typed(OPEN + CHANGE + COMMIT, server_process))
    later = console()
    later.run(typed(OPEN, server_process))
    assert later.run("root['list'], root['dict']") == (['a', 'b', 1.0, 3], {'a': 1, 'b': 4})


def test_many_processes_commit_at_once(server_process, console):
    """Each has a mapping of its own, so there is no conflict; in the end everyone sees everything."""
    prompts = [console() for _ in range(4)]
    for number, prompt in enumerate(prompts):
        prompt.run(typed(OPEN, server_process))
        prompt.run('from persistent.mapping import PersistentMapping')
        prompt.run(f'mine = root[{number}] = PersistentMapping(); transaction.commit()')
    for prompt in prompts:
        prompt.start('for i in range(25): mine[i] = i; transaction.commit()')
    for prompt in prompts:
        prompt.finish()
    for prompt in prompts:
        prompt.refresh()
        assert prompt.run('[len(root[number]) for number in range(4)]') == [25] * 4


def test_what_one_commits_the_others_see_at_their_next_transaction(prompts):
    one, other = prompts
    one.run(CHANGE + COMMIT)
    other.refresh()
    assert other.run("root['list']") == ['a', 'b', 1.0, 3]


def test_with_server_sync_nobody_needs_to_wait_for_an_invalidation(server_process, console):
    one, other = console(), console()
    one.run(typed(OPEN, server_process))
    other.run(typed(OPEN, server_process).replace('))\n', '), server_sync=True)\n'))
    one.run(CHANGE + COMMIT)
    assert other.run("transaction.begin(); root['list']") == ['a', 'b', 1.0, 3]


def test_an_open_transaction_goes_on_to_read_what_it_began_with(prompts):
    one, other = prompts
    one.run("root['n'] = 1; transaction.commit()")
    other.refresh()
    assert other.run("root['n']") == 1
    one.run("root['n'] = 2; transaction.commit()")
    loads = other.run(LOADS)  # a round trip: the invalidation is here
    assert other.run(MINIMIZE + "; root['n']") == 1
    assert other.run(LOADS) == loads
    other.refresh()
    assert other.run("root['n']") == 2


def test_the_second_of_two_conflicting_changes_gets_conflict_error(prompts):
    one, other = prompts
    one.refresh(), other.refresh()
    one.run("root['winner'] = 'one'")
    other.run("root['winner'] = 'other'")
    one.run(COMMIT)
    with pytest.raises(RemoteError) as caught:
        other.run(COMMIT)
    assert caught.value.class_name == 'ZODB.POSException.ConflictError'
    assert caught.value.attributes['oid'] == bytes(8)
    other.run('transaction.abort()')
    other.refresh()
    assert other.run("root['winner']") == 'one'
    other.run("root['winner'] = 'other'; transaction.commit()")
    one.refresh()
    assert one.run("root['winner']") == 'other'


def test_what_was_read_before_needs_no_request_until_its_invalidation(prompts):
    """K7 in part: warm reads are counted by the server's ``loads``."""
    one, other = prompts
    one.run(CHANGE + COMMIT)
    other.refresh()
    before = other.run("root['list']; " + LOADS)
    assert other.run(MINIMIZE + "; root['list']") == ['a', 'b', 1.0, 3]
    assert other.run(LOADS) == before
    one.run("root['list'] = ['new']; transaction.commit()")
    other.refresh()
    assert other.run(LOADS) == before
    assert other.run("root['list']") == ['new']
    assert other.run(LOADS) == before + 1


def test_what_a_process_committed_itself_needs_no_request(prompts):
    one, _ = prompts
    one.run(CHANGE + COMMIT)
    before = one.run(LOADS)
    assert one.run(MINIMIZE + "; root['list']") == ['a', 'b', 1.0, 3]
    assert one.run(LOADS) == before
