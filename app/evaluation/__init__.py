"""The evaluation of drift monitoring: how often it alarms when nothing has changed, and how late when something has.

`null`, `labels` and `changes` draw streams (`streams`), `weather`, `employment` (with `census`), `flights` and `kdd`
take real ones, `prices` made-up ones of a regressor, `concepts` those of river's generators. On windows of counts the
product stands beside classic tests (`window_contestants`), on streams of errors detectors stand beside each other
(`error_contestants`). `measures` has the figures, `sections` what can be run, `goals` what was promised.

`ranking` judges lists of recommendations (`scripts/ranking.py`).
"""
