"""Trouble that no event tells is in the log when it begins and when it is over."""
from __future__ import annotations

import logging

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.server.alarm import INTERVAL_S, Alarm


def disk(free):
    return {'1': {'sizes': {'disks': [{'holds': 'database', 'free': free, 'size': 100}]}, 'waiting': 9}}


def test_trouble_is_told_once_then_when_it_is_worse_then_when_it_is_over(caplog):
    caplog.set_level(logging.INFO)
    loop, answers = HandLoop(ClockRuntime()), [disk(9), disk(3), disk(3), disk(0), disk(9), disk(9)]
    Alarm(loop, lambda: answers.pop(0)).start()
    while answers:
        loop.advance(INTERVAL_S)
    told = [(record.levelname, record.getMessage().partition(' of 100 B')[0]) for record in caplog.records]
    assert told == [
        ('WARNING', 'storage 1: the disk is filling up: 3 B'), ('ERROR', 'storage 1: the disk is full: 0 B'),
        ('INFO', 'storage 1: it is over: the disk is full: 0 B')]
    assert caplog.messages[0].endswith('; to do: make room; a pack needs some, too, before it gives any back')
