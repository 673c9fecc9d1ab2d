"""What is allowed where a configuration is wrong: makes ZConfig's complaints complete.

In: a schema, an error of ZConfig, the configuration's text or place.  Out: one line that names mistake, what
is allowed instead, file and line.  Reads the file again to find out which section the line is in; refuses to
know what any key means.
"""
from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

import ZConfig

#: A line that opens a section, or closes one.
OPENING = re.compile(r'\s*<\s*([^/\s>]+)[^>]*?(/?)>\s*')
CLOSING = re.compile(r'\s*</\s*([^\s>]+)\s*>\s*')
UNKNOWN_KEY = ' is not a known key name'
BYTE_ORDER_MARK = '\ufeff'
UNKNOWN_TYPE = 'unknown type name: '
MISPLACED = 'no matching section defined for type='
MISSING_KEY = re.compile(r"(?:no|not enough) values for '(.+?)'; (?:0 found, )?1 required")
MISSING_SECTION = re.compile(r"no values for section type '(.+)'; 1 required")


def explain(schema: Any, error: Exception, place: str, text: str | None = None) -> str:
    """`error` in one line.  `place` is the file or URL, `text` the configuration if it came from none."""
    # ZConfig knows the place of most mistakes, but not every message of it tells.
    message = ' '.join(str(getattr(error, 'message', error)).split())
    line: int = getattr(error, 'lineno', None) or 0
    place = getattr(error, 'url', None) or place
    if line > 0:
        text = _read(place) if text is None else text
        if text.startswith(BYTE_ORDER_MARK):
            message = 'the file begins with a byte order mark: save it as UTF-8 without one'
        elif isinstance(error, ZConfig.DataConversionError):  # it may tell no more than the value
            key = _key_at(text, line)
            message = message if key in message else f'{key}: {message}'
        message += _allowed(schema, message, text, line)
        message = MISSING_KEY.sub(rf"'\1' is missing in <{_section_at(text, line)}>", message)
        return f'{message} ({place}, line {line})'
    message = MISSING_SECTION.sub(r'a section <\1> is missing', message)
    return message if _path(place) in message else f'{message} ({place})'


def _allowed(schema: Any, message: str, text: str, line: int) -> str:
    """The end of the sentence, or nothing if that is not known."""
    section = _section_at(text, line)
    if message.endswith(UNKNOWN_KEY) and section is not None:
        keys = _keys(schema, section)
        return f"; allowed in <{section}>: {', '.join(keys)}" if keys else ''
    if message.startswith(UNKNOWN_TYPE) and section is None:
        return f"; allowed: {', '.join(_sections(schema))}, and what packages named with %import define"
    if message.startswith(f"{MISPLACED}'zodb"):  # and Zope's zodb_db
        return '; this is the configuration of a client: a server has <zeo>, and a section for each storage'
    if message.startswith(MISPLACED) and section is not None:
        return f'; it does not belong within <{section}>: is </{section}> missing before it?'
    return ''


def _section_at(text: str, line: int) -> str | None:
    """The type of the innermost section around a line, counted from 1; None outside of all."""
    opened: list[str] = []
    for content in text.splitlines()[:line - 1]:
        if CLOSING.fullmatch(content):
            del opened[-1:]
        elif (found := OPENING.fullmatch(content)) and not found[2]:
            opened.append(found[1].lower())
    return opened[-1] if opened else None


def _key_at(text: str, line: int) -> str:
    """What a line gives a value to; nothing if it is another line."""
    words = ''.join(text.splitlines()[line - 1:line]).split(None, 1)
    return words[0] if words and words[0][0].isalpha() else ''


def _keys(schema: Any, section: str) -> list[str]:
    try:
        section_type = schema.gettype(section)
    except Exception:  # of an imported package, whose schema is not ours
        return []
    return [key if key else f'<{info.sectiontype.name}>' for key, info in section_type]


def _sections(schema: Any) -> list[str]:
    found: list[str] = []
    for _, info in schema:
        kind = info.sectiontype
        found += sorted(kind.getsubtypenames()) if kind.isabstract() else [kind.name]
    return [f'<{name}>' for name in found]


def _path(place: str) -> str:
    return unquote(urlsplit(place).path) if place.startswith('file:') else place


def _read(place: str) -> str:
    """The text at a path or a file's URL; nothing if it cannot be read."""
    try:
        with open(_path(place), encoding='utf-8', errors='replace') as file:
            return file.read()
    except (OSError, ValueError):
        return ''
