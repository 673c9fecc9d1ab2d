"""What both ends know of the protocol besides ZEO's own: methods beyond it, and figures that must agree.

A server lists `OFFERS` under ``extensions`` in ``get_info``; a client asks for nothing that is not there.
"""
from __future__ import annotations

#: ``iterator_batch(iterator id, bytes)``: some transactions with their records.
ITERATOR_BATCH = 'iterator_batch'
#: ``heartbeat(seconds)``: as ping, and the client will be heard of at least this often.
HEARTBEAT = 'heartbeat'
#: ``heartbeat(seconds, {...})``: it may tell its ``version``, and its cache's ``hits`` and ``misses``.
TOLD = 'told'
#: ``identify(token, number)``: who the client is, and the number of its last transaction so far;
#: ``commit_outcome(number)``: what became of one of its transactions (C11).
COMMIT_OUTCOME = 'commit_outcome'
#: ``load_batch(oids, tid, bytes)``: loadBefore of many objects.
LOAD_BATCH = 'load_batch'
#: ``has_transaction(tid)``: is it one of the storage's, False if it never was, None if that is not known; who
#: lists it answers ``getInvalidations`` for nothing but transactions of the storage (C22).
HAS_TRANSACTION = 'has_transaction'
#: ``blob_size(oid, serial)``: bytes of a blob (B11).
BLOB_SIZE = 'blob_size'
#: ``undo_iterator(first, last, specification)`` and ``history_iterator(oid, size)``: the id of an iterator;
#: ``entry_batch(iterator id, bytes)``: some of its entries (L11).
ENTRY_BATCH = 'entry_batch'
#: ``rich_values()``: from now on the client may be sent values of `rich`, and extensions as they are stored.
RICH_VALUES = 'rich_values'

OFFERS = [ITERATOR_BATCH, HEARTBEAT, COMMIT_OUTCOME, LOAD_BATCH, HAS_TRANSACTION, BLOB_SIZE, ENTRY_BATCH,
          RICH_VALUES, TOLD]

#: Oids handed out by one call of ``new_oids``.
MAX_NEW_OIDS = 100
#: Bytes of a blob in one message, either way: ZEO's figure.
BLOB_CHUNK = 59_000
#: Characters of the names of storages, files and the like.
MAX_NAME = 255
