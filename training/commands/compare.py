"""`deep-lora compare`: Deep LoRA and LoRA on your own data and model, with the same seeds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from training.commands import finetune
from training.comparison import RATES, Plan, compare, deep_lora, lora
from training.errors import UsageError
from training.job import Job
from training.names import COMPARISON, COMPARISON_FIGURE
from training.results.comparison import caveats, table, verdict
from training.runner import run_job
from training.settings.adapter import SharedArguments
from training.settings.common import COMMON, HeadArguments, ModelArguments, RunArguments
from training.settings.data import TextDataArguments
from training.settings.parsing import option, option_names, parse, passed, with_config_file
from training.trainer.optimizer import RATE

DESCRIPTION = f"""Compare Deep LoRA with LoRA on your own data and model, on the same seeds.

  deep-lora compare --model distilbert-base-uncased --dataset reviews.csv
  deep-lora compare --model distilbert-base-uncased --dataset reviews.csv --test_data test.csv --tune

Deep LoRA has nothing set. LoRA has the learning rate {RATE:g} (or --learning_rate); --tune adds LoRA at the best of
{", ".join(f"{rate:g}" for rate in RATES)} on the validation data. Each run is one of deep-lora finetune, in its own
folder. The results are a table with 95 % intervals, {COMPARISON_FIGURE}, and a sentence. Rerun the same
command to resume; runs that are complete are not repeated."""
SHOWN = (
    "model", "dataset", "task", "text_column", "label_column", "target_column", "validation_data", "test_data",
    "metrics", "max_length", "seeds", "tune",
    *(name for name in COMMON if name not in ("adapter", "push_to_hub", "early_stopping_patience")),
)  # fmt: skip
_REFUSED = {
    "sample_seed": "the rows of each pair are drawn by its own seed; leave it out (--seed is that of the first pair)",
    "push_to_hub": "a comparison has many adapters; push the one you want with deep-lora push --run FOLDER",
    "resume_from_checkpoint": "each run finds its own checkpoint; leave it out",
}


@dataclass
class CompareArguments:
    """How many pairs there are, and whether LoRA is tuned."""

    _argument_group_name = "comparison"

    seeds: int = option(
        5, "Number of paired runs. Each pair has its own seed, for new weights, order and the rows that are drawn."
    )
    tune: bool = option(False, f"Also compare with LoRA at the best of {len(RATES)} rates on the validation data.")

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise UsageError(f"--seeds got {self.seeds}; an interval needs at least 2 pairs, and 5 are usual")


@dataclass
class ComparedRuns(RunArguments):
    """As `RunArguments`, with a folder of its own."""

    output_dir: str | None = option("runs/compare", "Folder for everything that is written.")


TYPES = (ModelArguments, SharedArguments, CompareArguments, TextDataArguments, HeadArguments, ComparedRuns)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    words = with_config_file(list(words), option_names(TYPES))
    _refuse(passed(words))
    groups = parse(TYPES, words, command="compare", description=DESCRIPTION, common=SHOWN)
    own, run = groups[2], groups[5]
    if own.tune and "learning_rate" in passed(words):
        raise UsageError(
            f"--tune tries the rates {', '.join(f'{rate:g}' for rate in RATES)}; leave --learning_rate out"
        )
    folder = Path(str(run.output_dir))
    rest = HfArgumentParser(CompareArguments, add_help=False, allow_abbrev=False).parse_args_into_dataclasses(
        args=words, look_for_args_file=False, return_remaining_strings=True
    )[-1]
    rate = run.learning_rate
    plan = Plan(folder, range(run.seed, run.seed + own.seeds), own.tune, rate, partial(_job, rest))
    say = partial(print, flush=True) if run.process_index == 0 else _silent
    if run.dry_run:
        return _rehearse(plan, say)
    if run.overwrite and run.process_index == 0:
        _clear(folder)
    outcome = compare(plan, say)
    say("\n".join(["", table(outcome), "", verdict(outcome), *caveats(outcome), f"written to {folder}: {COMPARISON}, "
                   f"{COMPARISON_FIGURE}, and a folder of each run"]))  # fmt: skip
    return 0


def _job(words: Sequence[str], more: Sequence[str]) -> Job:
    """Build the job of `finetune` with these options."""
    settings: Any = parse(finetune.TYPES, [*words, *more], command="finetune", description="")
    return finetune.build_job(*settings)


def _refuse(given: set[str]) -> None:
    for name, reason in _REFUSED.items():
        if name in given:
            raise UsageError(f"--{name} cannot be used with compare: {reason}")


def _rehearse(plan: Plan, say: Any) -> int:
    """Do what each kind of run does before its first step."""
    methods = [deep_lora(plan.rate), lora(RATE if plan.rate is None else plan.rate)]
    for method in methods:
        run_job(plan.job(method, plan.seeds[0]))
    count = len(plan.seeds) * (1 + (len(RATES) if plan.tune else 1))
    say(f"\n{count} such runs would be compared, of {' and '.join(method.name for method in methods)}")
    return 0


def _clear(folder: Path) -> None:
    """Delete an earlier comparison, and nothing else that lies in the folder."""
    (folder / COMPARISON).unlink(missing_ok=True)
    for place in [folder / "deep_lora", *folder.glob("lora-*")]:
        for run in place.glob("seed-*"):
            shutil.rmtree(run)


def _silent(line: str) -> None:
    """Print nothing: the first process does."""
