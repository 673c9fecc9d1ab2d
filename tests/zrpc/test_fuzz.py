"""Recorded traffic, mutated: whatever arrives is an event or `ProtocolError`, on both sides (S5, S5a, S1).

80,000 messages, always the same ones; ``ZEO_CLONE_HEAVY=1`` tries 5,000,000.
"""
from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import struct
import sys

import pytest

from tests.zrpc.helpers import feed, open_client, open_server
from tests.zrpc.test_marshal import Z4, Z5
from zeo_clone.client.commit import check_vote
from zeo_clone.client.notices import check_info, check_invalidation, check_oids, check_revision
from zeo_clone.client.outcome import check_outcome
from zeo_clone.Exceptions import ProtocolError, UnrecognizedResult
from zeo_clone.server.clients.methods import METHODS
from zeo_clone.server.vocabulary import BadArgument
from zeo_clone.zrpc.allowed import ALLOWED
from zeo_clone.zrpc.connection import Call, Failure, Result
from zeo_clone.zrpc.frames import frame

pytestmark = pytest.mark.long

ROUNDS = 2_500_000 if os.environ.get('ZEO_CLONE_HEAVY') else 40_000  # for each side
#: Messages that are tried while the processor's time is watched, and how much of it they get: a hundred
#: times what they need.
CHUNK, CHUNK_LIMIT_S = 10_000, 60
#: Memory that may stay behind, in bytes; it grows with the first messages, not with their number.
MEMORY_LIMIT = 64 << 20

RECORDED = sorted({*Z5, *Z4})
CALLS = [content for content in RECORDED if b'.reply' not in content]
PIECES = [
    *(bytes([code]) for code in b'(.)]}NKMJCBXURqhrjtluseapg0\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x91'
                                b'\x93\x94\x95cibo'),
    *(f'c{module}\n{name}\n'.encode() for module, name in sorted(ALLOWED)),
    b'cos\nsystem\n', b'cbuiltins\neval\n', b'B\xff\xff\xff\xff', b'X\xff\xff\xff\x7f', b'r\xff\xff\xff\xff',
    b'q\0', b'h\0', b'h\1', b'K\1', b'C\x08abcdefgh', b'K\0X\6\0\0\0.reply', b'}q\0h\0h\0s',
    b'(' * 40, b')\x85' * 40,
]
NUMBERS = [struct.pack('<I', number) for number in (0, 1, 7, 9, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)]


def mutated(chance, recorded):
    """One of the `recorded` messages, with one to four things changed."""
    content = bytearray(chance.choice(recorded))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            content[place:place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            content[place:place] = chance.choice(PIECES)
        elif kind == 2:
            content[place:place + 1] = chance.choice(PIECES)
        elif kind == 3:
            content[place:place + 4] = chance.choice(NUMBERS)
        elif kind == 4:
            del content[place:place + chance.randint(1, 12)]
        elif kind == 5:
            other = chance.choice(RECORDED)
            start = chance.randrange(len(other))
            content[place:place] = other[start:start + chance.randint(1, 60)]
        else:
            content[place:place] = content[place:place + chance.randint(1, 40)]
    return bytes(content)


def to_server(content):
    """What a server does with a message before it carries anything out; the event, or None."""
    try:
        events = list(open_server().receive_data(frame(content)))
    except ProtocolError:
        return None
    if not events:
        return None
    event, = events
    assert type(event) is Call
    method = METHODS.get(event.name)
    if method is not None and method.required <= len(event.args) <= len(method.checks):
        try:
            for check, argument in zip(method.checks, event.args, strict=False):
                check(argument)
        except BadArgument:
            return None
    return event


RESULTS = [check_oids, check_revision, check_vote, check_outcome, check_info]


def to_client(content):
    """What a client does with a message before it believes it; the event, or None."""
    core = open_client()
    for token in range(30):
        core.send_call('ping', (), token)
    try:
        events = feed(core, frame(content))
    except ProtocolError:
        return None
    if not events:
        return None
    event, = events
    if type(event) is Failure:
        str(event.error)
        return event
    assert type(event) in (Call, Result)
    checks = [check_invalidation, check_info] if type(event) is Call else RESULTS
    value = event.args if type(event) is Call else event.value
    for check in checks:
        with contextlib.suppress(ProtocolError, UnrecognizedResult):
            check(value)
    return event


@pytest.mark.parametrize('side, recorded', [(to_server, CALLS), (to_client, RECORDED)])
def test_mutated_traffic_is_an_event_or_refused(side, recorded):
    """S5, S5a, S1: no other exception, nothing imported, no endless work, no growing memory."""
    def too_long(*_):
        raise AssertionError(f'{CHUNK} messages take more than {CHUNK_LIMIT_S} s')

    chance = random.Random(f'{side.__name__} 1')
    events = 0
    b'x'.decode('raw_unicode_escape')  # a codec that Python imports at its first use
    outer = signal.signal(signal.SIGVTALRM, too_long)
    try:
        side(mutated(chance, recorded))
        modules, before = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(ROUNDS):
            if number % CHUNK == 0:
                signal.setitimer(signal.ITIMER_VIRTUAL, CHUNK_LIMIT_S)
            events += side(mutated(chance, recorded)) is not None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, outer)
    assert set(sys.modules) == modules
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_LIMIT >> 10
    assert ROUNDS // 100 < events < ROUNDS // 2  # neither mostly harmless nor hopeless
