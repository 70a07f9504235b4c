"""Runs the flow over logs that end, without Kafka or a clock: training sets, replays, backfills, batch runs, parity."""
