"""Pre-train a small decoder on the training texts of a store, each followed by the name of its class.

What is written is a folder for `model.pretrained` and `tasks.tokenizer` of `jobs/label_words.py`. No text and no name
of the classes that are tested is read. Needs `distmeta[petl]`.

    python jobs/pretrain/decoder.py decoders/banking77
    python jobs/pretrain/decoder.py decoders/clinc150 --store clinc150 --split-set 02 --steps 3000
"""

import argparse
from pathlib import Path

from distmeta.config import TextTasks
from distmeta.models.petl.decoder import pretrain_decoder
from distmeta.models.petl.pretrain import Pretraining
from distmeta.tasks.labels import labelled_lines

TEMPLATE = "query: {} intent:"
REPORT_STEPS = 100


def main() -> None:
    """Pre-train, and print the loss."""
    parser = argparse.ArgumentParser(description="Pre-train a small decoder on the training texts of a store.")
    parser.add_argument("folder", type=Path, help="where it is written")
    parser.add_argument("--store", default="banking77")
    parser.add_argument("--split-set", default="01")
    parser.add_argument("--template", default=TEMPLATE)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32, help="texts of a step")
    arguments = parser.parse_args()
    tasks = TextTasks(store=arguments.store, split_set=arguments.split_set, template=arguments.template)
    settings = Pretraining(steps=arguments.steps, batch=arguments.batch)
    losses = pretrain_decoder(labelled_lines(tasks), arguments.folder, settings)
    for step in range(0, len(losses), REPORT_STEPS):
        part = losses[step : step + REPORT_STEPS]
        print(f"steps {step} to {step + len(part) - 1}: {sum(part) / len(part):.3f} nats a token")


if __name__ == "__main__":
    main()
