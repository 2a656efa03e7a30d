"""What a worker does with a shard of tasks."""
