"""What an export to plain LoRA costs: CPU time of `deep_lora.save_as_lora` against PEFT's own `save_as_lora`.

    python -m benchmarks.speed.export_cost      # a 12-layer, 768-wide BERT-shaped model with random weights

Both write the same update of the same adapter. PEFT's decomposes every dense out x in update, ours r x r matrices.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

import deep_lora
from benchmarks.result_files import RESULTS, versions, write_json
from deep_lora import DeepLoraConfig, adapted_layers


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="encoder layers (default 12)")
    parser.add_argument("--width", type=int, default=768, help="hidden size, a multiple of 64 (default 768)")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapter (default 8)")
    parser.add_argument("--repeats", type=int, default=3, help="exports with deep_lora, the median counts (default 3)")
    parser.add_argument("--peft-repeats", type=int, default=1, help="exports with PEFT (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    parser.add_argument("--output", type=Path, default=RESULTS / "export_cost.json", help="JSON of results")
    return parser.parse_args()


def build(arguments: argparse.Namespace) -> peft.PeftModel:
    """Make a random encoder with an adapter on all linear layers, as if it were trained."""
    torch.manual_seed(arguments.seed)
    config = BertConfig(
        vocab_size=100, hidden_size=arguments.width, num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 64, intermediate_size=4 * arguments.width,
    )  # fmt: skip
    settings = DeepLoraConfig(
        r=arguments.rank, target_modules=r"encoder\..*(query|key|value|dense)", init_weights=False
    )
    return peft.get_peft_model(BertModel(config, add_pooling_layer=False), settings)


def processor_seconds(function: Callable[[], Any], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return seconds


def largest_difference(a: Path, b: Path) -> float:
    """Compute the largest relative (Frobenius) difference of a module's update between two LoRA folders."""
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (a, b))
    names = [key.removesuffix(".lora_A.weight") for key in first if key.endswith(".lora_A.weight")]
    worst = 0.0
    for name in names:
        ours, theirs = (t[f"{name}.lora_B.weight"] @ t[f"{name}.lora_A.weight"] for t in (first, second))
        worst = max(worst, ((ours - theirs).norm() / theirs.norm()).item())
    return worst


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)  # waiting threads would count as work in processor time
    model = build(arguments)
    modules = len(adapted_layers(model))
    with tempfile.TemporaryDirectory() as folder:
        ours_folder, peft_folder = Path(folder, "ours"), Path(folder, "peft")
        ours = processor_seconds(lambda: deep_lora.save_as_lora(ours_folder, model), arguments.repeats)
        theirs = processor_seconds(
            lambda: peft.save_as_lora(peft_folder, model, rank=arguments.rank), arguments.peft_repeats
        )
        difference = largest_difference(ours_folder, peft_folder)
    median_ours, median_theirs = median(ours), median(theirs)
    result = {
        "settings": {
            "layers": arguments.layers, "width": arguments.width, "rank": arguments.rank, "seed": arguments.seed,
            "modules": modules, "threads": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "versions": versions("torch", "peft", "transformers") | {"deep_lora": deep_lora.__version__},
        "processor": platform.processor() or platform.machine(),
        "deep_lora_cpu_seconds": ours,
        "peft_cpu_seconds": theirs,
        "ratio": median_theirs / median_ours,
        "largest_relative_difference": difference,
    }  # fmt: skip
    write_json(arguments.output, result)
    print(f"{modules} modules: deep_lora {median_ours:.2f} s, PEFT {median_theirs:.1f} s of processor time")
    print(f"ratio {result['ratio']:.0f}; largest relative difference of an update {difference:.1e}; {arguments.output}")


if __name__ == "__main__":
    main()
