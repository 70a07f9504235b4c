"""The flow over logs that end, without Kafka and clock: training sets, replays, backfills, batch runs, parity."""
