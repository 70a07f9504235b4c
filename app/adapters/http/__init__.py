"""HTTP: the pages, the API and the health of a worker and of a monitor, and the client of a monitor.

In come requests of strangers, bounded (`server`); out go numbers, rows, one HTML page. May not know of Kafka: what is
shown is handed in.
"""
