"""Attempts: what comes of one address, and that nothing is lost when the channel is handed over."""
from __future__ import annotations

import pytest

from tests.client.fake_server import Refuse, p64
from tests.client.test_order import Wrapper
from tests.support import inside
from zeo_clone.client import attempt
from zeo_clone.Exceptions import ClientDisconnected

OID = p64(7)


def invalidations_before_the_answer(fake, count):
    """What was committed while the server registers the client; real servers may tell that first."""
    def register(connection, storage, read_only):
        for number in range(count):
            connection.notice('invalidateTransaction', p64(10 + number), [OID])
            connection.notice('info', {'size': number})
        return p64(5)

    fake.answers['register'] = register


def test_an_invalidation_before_the_answer_to_register_takes_effect(fake, opened):
    """C1, C4: the channel's next owner applies it when the cache is verified."""
    storage = opened(wait=False)
    told = Wrapper(storage).told
    invalidations_before_the_answer(fake, 2)
    inside.manager(storage).link(20)
    assert storage.lastTransaction() == p64(11)
    assert told[-2:] == [(p64(10), [OID]), (p64(11), [OID])]


def test_invalidations_in_one_piece_with_the_answer_take_effect(fake, opened):
    """C4: from the answer on they are the link's; nothing is between the two."""
    def register(connection, storage, read_only):
        core = connection.core
        core.registered()
        connection.write(core.send_reply(1, p64(5))  # it is the client's first call
                         + core.send_oneway('invalidateTransaction', (p64(10), [OID])))
        raise Refuse

    fake.answers['register'] = register
    storage = opened()
    assert storage.lastTransaction() == p64(10)


@pytest.mark.parametrize('notice', [('receiveBlobStart', OID, OID), ('nonsense',),
                                    ('invalidateTransaction', 'no tid', [])])
def test_a_server_that_says_nonsense_before_it_registers_is_given_up(fake, opened, notice):
    """S17: and the log, or the complaint, says why."""
    def register(connection, storage, read_only):
        connection.notice(*notice)
        return p64(5)

    fake.answers['register'] = register
    with pytest.raises(ClientDisconnected, match=notice[0] if notice[0] != 'invalidateTransaction' else '.'):
        opened(wait_timeout=1)
    assert fake.called('get_info') == 0


def test_a_server_that_never_registers_but_talks_is_given_up(fake, opened, monkeypatch):
    monkeypatch.setattr(attempt, 'MAX_EARLY', 3)
    invalidations_before_the_answer(fake, 4)
    with pytest.raises(ClientDisconnected, match="calls 'invalidateTransaction' before it answers register"):
        opened(wait_timeout=1)
