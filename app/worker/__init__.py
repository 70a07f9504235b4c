"""What a worker runs: its partitions, each with a task and a transaction, and what all of them share."""
