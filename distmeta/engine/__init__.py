"""The engine: one shard of T tasks on one device."""
