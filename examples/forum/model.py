"""What the forum stores: persistent objects in BTrees, below the database's root.

    root['forum'] -> Forum -> stories {1: Story, 2: Story, ...} -> comments {1: Comment, ...}

A persistent object is a database record of its own.  It is read when it is first looked at, and written
when one of its attributes was set.  A BTree is a mapping whose parts are records of their own too, so that
a large one is never read whole, and two processes can add different keys at the same time.
"""
from __future__ import annotations

import heapq
import time

from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from persistent import Persistent

NEWEST = 200  # so many stories can get to the front page; older ones are not even looked at
AGING = 1.5   # the larger, the faster do stories sink


class Forum(Persistent):
    """All stories."""

    def __init__(self):
        self.stories = IOBTree()

    def add_story(self, title, link, text, author):
        """Returns the new Story.

        If two processes add a story at once, both take the same number.  The second one to commit gets a
        ConflictError then; its transaction is done again and finds the next number.
        """
        number = next_number(self.stories)
        story = self.stories[number] = Story(number, title, link, text, author)
        return story

    def hottest(self, count):
        """The best of the newest stories, best first."""
        now = time.time()
        newest = self.stories.values(next_number(self.stories) - NEWEST)
        return heapq.nlargest(count, newest, key=lambda story: story.heat(now))


class Story(Persistent):
    """A title, and a link or a text, to which people write comments.

    The votes are counted in an object of their own, a `Length`.  It can merge changes: of two votes at the
    same time none is lost and none has to be repeated.  The story itself is not even written.
    """

    def __init__(self, number, title, link, text, author):
        self.number = number
        self.title = title
        self.link = link
        self.text = text
        self.author = author
        self.written = time.time()  # in seconds since 1970
        self.votes = Length()
        self.comments = IOBTree()

    def add_comment(self, text, author):
        self.comments[next_number(self.comments)] = Comment(text, author)

    def heat(self, now):
        age_hours = max(0, now - self.written) / 3600
        return (self.votes() + 1) / (age_hours + 2) ** AGING


class Comment(Persistent):
    """What somebody says to a story."""

    def __init__(self, text, author):
        self.text = text
        self.author = author
        self.written = time.time()


def next_number(tree):
    return tree.maxKey() + 1 if tree else 1
