"""What things look like on the wire and at rest: pipelines, topics, records, ClickHouse tables."""
