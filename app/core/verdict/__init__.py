"""One verdict for each window and version: what has happened, what explains it, what to do.

In come what tests, labels, faults and past windows say (`diagnosis` gathers it, as a `situation`); out comes a kind and
sentences. May not know of alerts.
"""
