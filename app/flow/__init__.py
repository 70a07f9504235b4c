"""Parts of the flow of one partition (`app.pipeline`): a run of events, its scores as records, its letters, its counts.

In come the arrays of a run; out come records to publish. Pure, as the flow is. May not know in what order the flow
calls them.
"""
