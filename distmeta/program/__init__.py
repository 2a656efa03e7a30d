"""The program that workers run on shards of tasks."""
