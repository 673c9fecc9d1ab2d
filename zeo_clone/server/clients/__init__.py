"""The server's side of its clients: connections, what may be called, and how much of it."""
