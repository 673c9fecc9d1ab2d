"""Who is told what has happened, in the order of the storage.  This wing knows no storage."""
