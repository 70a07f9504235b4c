"""Requests to receivers of hooks: out goes a request, back comes what became of it.

Receivers are not trusted: which address is connected to, how long it may take and how much is read is bounded here.
"""
