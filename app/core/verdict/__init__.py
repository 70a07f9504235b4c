"""One verdict for each window and version: what has happened, what explains it, what to do.

In come what tests, labels, faults and past windows say; `diagnosis` gathers it into a `situation`. Out come a kind and
sentences. May not know of alerts.
"""
