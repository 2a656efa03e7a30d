"""Many adapters on one frozen network: tasks together beside a loop over modules of `peft`, and memory."""
