"""TLS files that change while they are in use.  Contexts are stand-ins here."""
from __future__ import annotations

import logging

import pytest

from zeo_clone.loop.certificates import RenewedContext
from zeo_clone.loop.runtime import Runtime


class Context:
    """Of the text of a file."""

    def __init__(self, text):
        self.text = text

    def wrap_bio(self, *args):
        return self.text, *args


class Files:
    """A `Source`: what is in `path`, which is bad if that is "bad", and in `directory`."""

    def __init__(self, path, directory):
        self.path = path
        self.paths = (str(path), str(directory))
        self.made = 0

    def context(self):
        self.made += 1
        text = self.path.read_text()
        if text == 'bad':
            raise ValueError('no certificate is in it')
        return Context(text)

    def expires(self):
        return float(len(self.path.read_text()))


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'directory').mkdir()
    (tmp_path / 'cert.pem').write_text('first')
    return Files(tmp_path / 'cert.pem', tmp_path / 'directory')


def replace(path, text):
    """As tools for renewals do it: another file gets the name."""
    new = path.with_suffix('.new')
    new.write_text(text)
    new.replace(path)


def test_files_are_read_once_while_nothing_changes(files):
    context = RenewedContext(files)
    assert [context.wrap_bio(1), context.wrap_bio(2)] == [('first', 1), ('first', 2)]
    assert (files.made, context.expires) == (1, 5.0)


def test_a_renewed_file_is_used_for_the_next_connection(files, caplog):
    """S6."""
    context = RenewedContext(files)
    replace(files.path, 'second')
    with caplog.at_level(logging.INFO):
        assert context.wrap_bio() == ('second',)
    assert context.expires == 6.0
    assert 'cert.pem' in caplog.text
    assert 'are used from now on' in caplog.text


def test_files_that_are_bad_are_told_once_and_tried_again_when_they_change(files, caplog):
    """S6: what was read before stays in use."""
    context = RenewedContext(files)
    replace(files.path, 'bad')
    assert [context.wrap_bio(), context.wrap_bio()] == [('first',)] * 2
    assert caplog.text.count('cannot be used') == 1
    assert 'no certificate is in it' in caplog.text
    files.path.unlink()
    assert context.wrap_bio() == ('first',)
    replace(files.path, 'third')
    assert context.wrap_bio() == ('third',)


def test_a_file_in_a_directory_of_authorities_counts(files, tmp_path):
    """S6: a new revocation list, say."""
    context = RenewedContext(files)
    (tmp_path / 'directory' / 'list.pem').write_text('revoked')
    context.wrap_bio()
    assert files.made == 2


class Unlisted(Runtime):
    """The directory is another user's, or goes just now."""

    def listdir(self, path):
        raise PermissionError(13, 'Permission denied', path)


def test_a_directory_that_cannot_be_listed_is_the_business_of_who_reads_it(files):
    """S6: `Source.context` says what is wrong, if anything is; a connection comes about."""
    assert RenewedContext(files, Unlisted()).wrap_bio() == ('first',)


def test_what_is_bad_from_the_beginning_is_an_error(files):
    files.path.write_text('bad')
    with pytest.raises(ValueError, match='no certificate'):
        RenewedContext(files)
