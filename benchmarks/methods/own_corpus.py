"""Are the tasks' own texts a good corpus? Three starts, the same meta-learned LoRA, few-shot intents of one split.

The starts: random weights, the same encoder pre-trained by masked language modelling on the texts of the training
classes (`distmeta.models.petl.pretrain`), and MiniLM. The first two have the tokenizer of the corpus.

    python -m benchmarks.methods.own_corpus --store banking77 --split 01
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import Report, progress
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.data.catalog import open_store
from distmeta.models.petl.pretrain import SMALL, Pretraining, pretrain
from distmeta.program.scoring import headline
from distmeta.tasks.stored import rows_of
from distmeta.training import train
from distmeta.training.evaluate import evaluate

STARTS = ("random", "own corpus", "MiniLM")


def corpus_of(store: str, split: str) -> list[str]:
    """The texts of a split's training classes."""
    opened = open_store(store)
    texts: list[str] = opened.texts.take(rows_of(opened, opened.split(split, "train"))).to_pylist()
    return texts


def changes(start: str, folder: Path) -> list[str]:
    """What a start changes of the job."""
    if start == "MiniLM":
        return []
    if start == "own corpus":
        return [f"model.pretrained={folder}", f"tasks.tokenizer={folder}"]
    sizes = ", ".join(f"{name}: {value}" for name, value in SMALL.items())
    return [
        "model.pretrained=null",
        f"model.architecture={{model_type: bert, vocab_size: 30000, {sizes}}}",
        f"tasks.tokenizer={folder}",
    ]


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--store", choices=("banking77", "clinc150"), default="banking77")
    parser.add_argument("--split", default="01")
    parser.add_argument("--seconds", type=float, default=300.0, help="of pre-training")
    args = parser.parse_args()
    report = Report(f"own_corpus_{args.store}", args.out)
    folder = (Path(args.out) / f"encoder_{args.store}_{args.split}").resolve()
    texts = corpus_of(args.store, args.split)
    losses = pretrain(texts, folder, Pretraining(budget_s=args.seconds))
    progress(f"pre-trained on {len(texts)} texts: {len(losses)} steps, loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    rows, results = ["| start | before, 1 shot | 1 shot | 5 shots |", "|---|---|---|---|"], {}
    for start in STARTS:
        common = [f"tasks.store={args.store}", f"tasks.split_set='{args.split}'", "tracking.kind=none"]
        name = f"name=own_corpus_{start.replace(' ', '_')}"
        config = load_job("intents.py:lora_protonet", *common, name, *changes(start, folder), *args.set)
        no_steps = {"name": f"{config.name}_0", "train": config.train.model_copy(update={"steps": 0})}
        before = train(config.model_copy(update=no_steps), anew=True)
        result = train(config, anew=True)
        five = evaluate(str(result.tested), overrides=["tasks.shots=5"])
        scores = [headline(scores) for scores in (before.scores, result.scores, five.scores)]
        results[start] = [(100 * score.mean[-1], 100 * score.interval[-1]) for score in scores]
        rows.append(f"| {start} | " + " | ".join(f"{mean:.1f} ± {half:.1f}" for mean, half in results[start]) + " |")
        progress(rows[-1])
        report.write(results=results, losses=losses[:: max(1, len(losses) // 100)])
    print("\n".join(rows))


if __name__ == "__main__":
    run_main(main)
