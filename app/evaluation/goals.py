"""What monitoring is to reach. A goal missed fails nothing."""

from __future__ import annotations

from app.figures import Goal

GOALS = (
    Goal(
        "goal.null.iid", "independent events: achieved false alarms are off the declared budget by",
        "null.iid.streamgauge.off", 15, "%", at_least=False,
    ),
    Goal(
        "goal.null.ar60", "AR(1) 0.6: false alarms per declared one", "null.ar60.streamgauge.achieved", 1,
        at_least=False,
    ),
    Goal(
        "goal.labels.iid", "with labels, independent events: achieved false alarms are off the declared budget by",
        "labels.iid.off", 15, "%", at_least=False,
    ),
    Goal(
        "goal.labels.ar60", "with labels, AR(1) 0.6: false alarms per declared one", "labels.ar60.all.achieved", 1,
        at_least=False,
    ),
    Goal("goal.payments.quiet", "Payments: false alarms per declared one, all laws together", "payments.quiet", 1.15,
         at_least=False),
    Goal("goal.payments.above", "Payments: laws that surely have more than 1.15 of them", "payments.quiet.above", 0, "",
         at_least=False),
    Goal("goal.payments.reversed", "Payments: a reversed relation is a concept drift, in each law",
         "payments.worst.reversed.right", 99, "%"),
    Goal("goal.payments.auc-0.05", "Payments: AUC 0.05 lower, of the oracle's power in each law",
         "payments.worst.auc-0.05.of_oracle", 0.8),
    Goal("goal.payments.auc-0.10", "Payments: AUC 0.10 lower, of the oracle's power in each law",
         "payments.worst.auc-0.10.of_oracle", 0.8),
    Goal("goal.payments.segment", "Payments: a segment's reversed relation is found and named, in each law",
         "payments.worst.segment.right", 80, "%"),
    *(Goal(f"goal.payments.{name}", f"Payments: {words}, in each law", f"payments.worst.{name}.right", share, "%")
      for name, words, share in (
        ("frauds-1.5", "1.5 times as many frauds are that", 90), ("frauds-2", "twice as many frauds are that", 90),
        ("inputs", "larger amounts are a drift of inputs or scores", 90), ("unit", "amounts in cents are named", 95),
        ("swapped", "columns that changed places are named", 95), ("constant", "a constant is named", 95),
        ("nulls", "missing amounts are named", 95), ("vocabulary", "new merchants are named", 95))),
    Goal("goal.payments.undisturbed", "Payments: beginnings and swaps without an alarm", "payments.undisturbed", 99,
         "%"),
    Goal("goal.frontier.adwin", "Errors: delay of the CUSUM at 1.2 million events, against river's ADWIN",
         "frontier.cusum-over-adwin", 0.75, "", at_least=False),
    Goal("goal.frontier.hddm", "Errors: delay of the CUSUM at 80 000 events, against river's HDDM_A",
         "frontier.cusum-over-hddm_a", 0.5, "", at_least=False),
    Goal("goal.noaa.delay", "NOAA weather: windows until the fault is seen", "noaa.streamgauge.delay", 1, "windows",
         at_least=False),
    Goal("goal.noaa.before", "NOAA weather: windows alarmed before the fault", "noaa.streamgauge.before", 1, "",
         at_least=False),
    Goal("goal.noaa.verdict", "NOAA weather: windows after, called a fault that displaces all columns",
         "noaa.verdict.named", 100, "%"),
    Goal("goal.kdd.abrupt", "KDD 2026 protocol on NOAA, abrupt: mean F1, against the best published there",
         "kdd.abrupt.windows-streamgauge.f1", 0.617, ""),
    Goal("goal.kdd.gradual", "KDD 2026 protocol on NOAA, gradual: mean F1, against the best published there",
         "kdd.gradual.windows-streamgauge.f1", 0.399, ""),
    Goal("goal.census.auc", "US census: error of the AUC estimated without labels", "census.estimated.auc", 0.0045, "",
         at_least=False),
    Goal("goal.census.accuracy", "US census: error of the accuracy estimated without labels",
         "census.estimated.accuracy", 0.0055, "", at_least=False),
    Goal("goal.flights", "Flights: June, July, December up and September down, found of 4", "flights.found", 4, ""),
    Goal("goal.flights.faults", "Flights: months that are called a fault, of ten without one", "flights.faults", 0, "",
         at_least=False),
    Goal("goal.flights.worse", "Flights: alerts that the model is worse than promised", "flights.worse", 1, ""),
    Goal("goal.cost.state", "State per event and feature, 100 events at a time", "cost.state", 0.05, "µs",
         at_least=False),
    Goal("goal.cost.close", "Closing a window of 10 features", "cost.close.1000", 0.5, "ms", at_least=False),
    Goal("goal.cost.growth", "Closing a window of 100 000 events against one of 1 000", "cost.close.growth", 1.2,
         at_least=False),
)  # fmt: skip
