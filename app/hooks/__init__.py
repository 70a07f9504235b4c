"""What a sender of hooks runs: it reads what others publish, and tells it to whom the pipeline file says."""
