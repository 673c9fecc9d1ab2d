"""Storages whose calls must not keep the loop waiting: they are asked in threads, or without waiting."""
