"""Large backbones with few tunable parameters. The only room that imports `transformers` and `peft`."""
