"""Numbers and texts for people: durations, times, sizes, what others have written.

Pure functions, for the commands, the page's server side and the log.
"""
from __future__ import annotations

import datetime
import os


def format_seconds(seconds: float) -> str:
    """A limit, or what was measured, as exactly as anybody wants to know: ``0.0091 s``, ``2.5 s``, ``39 s``,
    ``4:05 min``."""
    if seconds >= 60:
        return format_age(seconds)
    return f'{seconds:.0f} s' if seconds >= 10 else f'{round(seconds, 4):.2g} s'


def format_moment(time: float) -> str:
    """A time since the epoch: ``2026-11-28 19:05:10 UTC``."""
    try:
        moment = datetime.datetime.fromtimestamp(time, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return f'{time:.0f} seconds after 1970'
    return f'{moment:%Y-%m-%d %H:%M:%S} UTC'


def quoted(value: str | bytes, limit: int = 100) -> str:
    """What somebody wrote, or sent, in quotes: the first `limit` characters."""
    text = value if isinstance(value, str) else value[:4 * limit].decode('utf-8', 'backslashreplace')
    return repr(text[:limit])


def format_age(seconds: float) -> str:
    """A duration: ``3 s``, ``4:05 min``, ``1:02:03 h``, ``5 d 1:02 h``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f'{days} d {hour}:{minute:02} h'
    if hours:
        return f'{hours}:{minute:02}:{second:02} h'
    return f'{minute}:{second:02} min' if minute else f'{second} s'


def format_bytes(size: float) -> str:
    """A number of bytes for people: ``999 B``, ``1.5 KB``.  A KB has 1,024, as in the options."""
    for unit in ('B', 'KB', 'MB', 'GB'):
        if size < 1024 or unit == 'GB':
            break
        size /= 1024
    return f'{size:.0f} B' if unit == 'B' else f'{size:.1f} {unit}'


def counted(number: int, noun: str) -> str:
    """``1 client``, ``2 clients``."""
    return f'{number:,} {noun}' if number == 1 else f'{number:,} {noun}s'


def clean(line: str) -> str:
    """`line` without what a terminal could take for a command."""
    return ''.join(char if char.isprintable() else '?' for char in line)


def of_server(error: OSError, text: str) -> OSError:
    """`error`; if it is no more than the system's, after a `text` that says whose disk it is: clients have
    disks, too."""
    if error.errno is None or error.filename is not None or error.strerror != os.strerror(error.errno):
        return error
    return OSError(error.errno, f'{text}: {error.strerror}')
