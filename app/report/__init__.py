"""The report of a demo: what the warehouse knows, drawn and put in words on one page that needs nothing else.

`facts` reads by SQL, `plots` draws, `page` writes; a reader who knows no statistics is who it is for.
"""

from __future__ import annotations

from app.report.facts import Facts as Facts
from app.report.facts import read_facts as read_facts
from app.report.page import MissingPlotsError as MissingPlotsError
from app.report.page import require_plots as require_plots
from app.report.page import write_report as write_report
