"""Kafka: consume, publish, administer, by Faust and aiokafka, which only these modules import.

In come record batches of committed records; out go transactions. Records are not decoded here, except those of topics
that are followed (models, entities) or asked about (lag, keys). May not know of files, ClickHouse or HTTP.
"""
