"""Pipeline faults: the world has not changed, but how it reaches the model has, and a window's counts show it.

`find.FaultFinder` looks for all of them. Each module is one family: `displaced` (columns in each other's place),
`units` (another scale), `mixed_columns` and `mixed_units` (either, in a share of the events), `values` (constant,
missing, clipped, stand-ins, vocabulary), `traffic` (too many events, too few), and `since` looks at parts of a window.
None of them tests again whether anything moved: they look at metrics that have signalled, and say what kind of change
it is. Each asks for a shape that ordinary drift does not take, so a season is no fault. `naming` joins the faults in
all features that are made of a field into one fault of that field.
"""
