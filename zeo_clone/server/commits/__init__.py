"""The way of a transaction into the storage: phases, the commit lock, outcomes.  No sockets in this wing."""
