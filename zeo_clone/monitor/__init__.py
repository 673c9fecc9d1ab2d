"""How a server does, over HTTP: metrics for Prometheus, health checks, a page for people.

It stands above the server and asks it what any client may ask.  It has a loop and a thread of its own, so
that neither the number nor the manners of those who ask concern the server's.
"""
