"""Benchmarks: our worker and its peers over the same events in one run, as figures with goals.

::

    workload ─▶ lane (topics of one run, loaded) ─▶ contestant (processes) ─▶ outputs (checked) ─▶ figures ─▶ goals

`sections` lists what can be measured; ``streamgauge bench`` runs it. docs/benchmarks.md says what is timed, and why so.
"""
