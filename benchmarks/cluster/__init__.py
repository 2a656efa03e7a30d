"""What a step costs besides computing: server, workers, stragglers."""
