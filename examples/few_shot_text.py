"""Few-shot fine-tuning of a pretrained encoder for text classification: Deep LoRA against LoRA on the same seeds.

    python examples/few_shot_text.py                        # the packaged encoder and sentences, no network needed
    python examples/few_shot_text.py --rank 4 --seeds 0 1 2
    python examples/few_shot_text.py settings.yaml --short
    python examples/few_shot_text.py --smoke                # seconds, a random encoder on made-up sentences
    python examples/few_shot_text.py --model FacebookAI/roberta-base --dataset stanfordnlp/sst2 --text_column sentence

For each seed every method is trained on the same few sentences from the same start, and tested once on held-out
sentences. The Deep LoRA adapter of the first seed is saved, exported to plain LoRA, and the export is checked in a
second process that knows only transformers and PEFT (`predict_with_peft.py`). Everything is written to `--output_dir`;
the exit status is 1 when the export does not predict what the trained model does, and 2 when an argument cannot work.

Under `accelerate launch` the processes share each batch of training (`--batch_size` stays that of a step) and of
testing; the first one alone prints, checks the export, writes and draws.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

from few_shot_arguments import FewShotArguments, UsageError, parse_arguments
from few_shot_data import DEFAULT_MODEL, Splits, default_file, load_sentences, split_sentences
from few_shot_export import save_and_check
from few_shot_report import LABELS, draw_curves, print_table, write_results
from few_shot_smoke import write_smoke_files
from few_shot_training import Run, Trained, adapter_config, check_targets, load_base_model, train
from processes import processes, quieten, refuse, say
from transformers import AutoTokenizer
from transformers.utils import logging


def run_all(base_model: str, splits: Splits, arguments: FewShotArguments) -> tuple[list[Run], Trained | None]:
    """Every method on every seed, the methods in turn; also the first trained Deep LoRA model, if there is one."""
    load_base = partial(load_base_model, base_model, splits.test.class_names)
    check_targets(load_base(), arguments.target_modules)
    configs = {method: adapter_config(method, arguments) for method in arguments.methods}
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    order = [(seed, method) for seed in arguments.seeds for method in arguments.methods]
    runs: list[Run] = []
    first: Trained | None = None
    for number, (seed, method) in enumerate(order, start=1):
        say(f"\n{LABELS[method]}, seed {seed} (run {number} of {len(order)})")
        trained = train(method, seed, load_base, configs[method], tokenizer, splits, arguments)
        runs.append(trained.run)
        if first is None and method == "deep_lora":
            first = trained
    return runs, first


def run(arguments: FewShotArguments) -> bool:
    """The whole job; False when the export does not agree with the trained model, on the process that checks."""
    with processes().main_process_first():
        if arguments.smoke:
            arguments = with_smoke_files(arguments)
        base_model = arguments.model or str(default_file(*DEFAULT_MODEL))
        splits = split_sentences(load_sentences(arguments), arguments)
    runs, trained = run_all(base_model, splits, arguments)
    return finish(base_model, splits, runs, trained, arguments) if processes().is_main_process else True


def with_smoke_files(arguments: FewShotArguments) -> FewShotArguments:
    """The arguments with a tiny model and sentences, which the main process writes."""
    folder = Path(arguments.output_dir, "smoke")
    if processes().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_smoke_files(folder)
    changed = replace(arguments)
    changed.model, changed.dataset = str(folder / "model"), str(folder / "sentences.csv")
    return changed


def finish(
    base_model: str, splits: Splits, runs: list[Run], trained: Trained | None, arguments: FewShotArguments
) -> bool:
    """Everything that is printed and written at the end; False when the export does not agree."""
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    print_table(runs, arguments)
    check = save_and_check(base_model, trained, splits.test, arguments) if trained else None
    write_results(output / "results.json", runs, check, arguments)
    draw_curves(output / "learning_curves.png", runs, arguments)
    if check:
        print(check)
    print(
        f"written to {arguments.output_dir}: results.json, learning_curves.png"
        + ", deep_lora_adapter, lora_export" * bool(check)
    )
    return check is None or check.agrees


def main() -> int:
    logging.set_verbosity_error()  # the new classifier head is no news here, and neither is loading the weights
    quieten()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        return 0 if run(parse_arguments()) else 1
    except UsageError as error:
        return refuse(error)


if __name__ == "__main__":
    sys.exit(main())
