"""The engine: computes the update of one shard of T tasks on one device."""
