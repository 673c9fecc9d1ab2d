"""Strangers: programs that connect to a server and send what no client would."""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from zeo_clone.loop.runtime import AF_INET

if TYPE_CHECKING:
    from simulation.dice import Dice
    from simulation.machine import Process

#: A stranger stays so long at most, in seconds.
LONGEST_S = 20.0
HELLO = b'\0\0\0\x02Z5'
#: Sizes of messages that nobody sends.
SIZES = (0, 1, 0x7fffffff, 0x80000000, 0xffffffff)


def visit(process: Process, address: Any, dice: Dice, is_over: Callable[[], bool]) -> None:
    """The program of one: it sends some of `pieces`, waits, and closes the connection or is just gone."""
    kernel = process.kernel
    sock = process.runtime.socket(AF_INET)
    sock.connect_ex(address)
    if process.runtime.wait(sock.fileno(), False, True, LONGEST_S):
        try:
            for piece in pieces(dice):
                sock.send(piece)
                kernel.sleep(dice.between(0.0, 0.1))
        except OSError:
            pass  # the server has had enough
    end = kernel.now + dice.random() ** 3 * LONGEST_S
    while kernel.now < end and not is_over():
        kernel.sleep(0.1)
    sock.close()
    process.end()


def pieces(dice: Dice) -> Iterator[bytes]:
    """What is sent, in this order."""
    if dice.chance(0.2):
        yield dice.bytes(dice.below(200))  # it does not even greet
        return
    yield HELLO[:1 + dice.below(len(HELLO))] if dice.chance(0.2) else HELLO
    for _ in range(dice.below(4)):
        body = dice.bytes(dice.below(300))
        if dice.chance(0.3):
            # A call, as it is packed: [number, flag, name, arguments].
            name = dice.choice((b'register', b'heartbeat', b'loadBefore', b'nothing'))
            body = b'\x94\x01\x00' + bytes([0xa0 | len(name)]) + name + body
        size = dice.choice(SIZES) if dice.chance(0.3) else len(body)
        yield struct.pack('>I', size) + body
