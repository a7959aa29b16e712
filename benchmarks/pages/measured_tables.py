"""The table of measured times, memory and accuracies in `benchmarks/README.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

from benchmarks.markdown import markdown
from benchmarks.result_files import result


def sketch_row() -> tuple[str, str]:
    measured = result("sketch_accuracy")["angles_in_radians"]
    angles, several = measured["1 batches"], measured["4 batches"]
    linear = angles["linear sketch, width 96"]["max"]
    own = next(value for name, value in angles.items() if name.startswith("right side"))["max"]  # as much as is kept
    summed = next(value for name, value in several.items() if name.startswith("right side"))
    return (
        "largest angle between exact and sketched subspaces of r right vectors, all MiniLM layers, one batch, r=8",
        f"{own:.0e} rad (a linear one-pass sketch of width 96: {linear:.1f}); sum of four batches, approximate: "
        f"median {summed['median']:.2f}, largest {summed['max']:.2f} rad",
    )


def export_row() -> tuple[str, str]:
    cost = result("export_cost")
    ours = median(cost["deep_lora_cpu_seconds"])
    return (
        f"export of {cost['settings']['modules']} modules of 768 and 3072, one thread",
        f"{ours:.2f} s of CPU, {cost['ratio']:.0f} times less than PEFT's `save_as_lora`",
    )


SHAPES = {
    "384": "MiniLM shape (384, 16 x 128)",
    "768": "BERT-base shape (768, 16 x 128)",
    "2048": "Llama-1B block (2048, 2,048 tokens)",
    "smollm2_135m": "SmolLM2-135M (576, 4 x 256)",
}


def step_rows() -> list[tuple[str, str]]:
    rows = []
    for shape, label in SHAPES.items():
        time, memory = result(f"training_step_{shape}"), result(f"training_memory_{shape}")
        cells = []
        for method, name in (("deep_lora", "Deep LoRA"), ("deep_lora_frozen", "with frozen subspaces")):
            ratio = time["methods"][method]["ratio_to_lora"]
            bytes_ratio = memory["methods"][method]["ratio_of_step_bytes_to_lora"]
            cells.append(f"{name} {_time_ratio(ratio)}, {bytes_ratio:.2f} of the memory")
        rank, repeats = time["settings"]["rank"], time["settings"]["repeats"]
        rows.append(
            (f"training step against PEFT LoRA, r={rank}, {label}, median and quartiles of {repeats}", "; ".join(cells))
        )
    return rows


def rule_row() -> tuple[str, str]:
    cells = []
    for name in ("step_rule_384", "step_rule_384_short"):
        measured = result(name)
        ruled, plain, lora = (
            measured["methods"][method]["all_seconds"] for method in ("deep_lora_ruled", "deep_lora", "lora")
        )
        ratios = [median(a / b for a, b in zip(ruled, other, strict=True)) for other in (plain, lora)]
        work = measured["settings"]["workload"]
        tokens = f"{work['batch']} x {work['tokens']} tokens"
        cells.append(f"{tokens}: {ratios[0]:.2f} of the time without it, {ratios[1]:.2f} of LoRA's")
    memory = result("step_rule_memory_384")["methods"]["deep_lora_ruled"]["ratio_of_step_bytes_to_lora"]
    cells.append(f"memory at the longer {memory:.2f} of LoRA's")
    return "training step under the step rule, MiniLM shape, r=8, medians of ratios", "; ".join(cells)


def _time_ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}) of the time"


def initialization_row() -> tuple[str, str]:
    measured = result("initialization_768")
    ratio = measured["whole_model"]["initialize_subspaces"]["ratio_to_forward_and_backward"]["median"]
    extra = measured["memory"]["extra_bytes"] / 1e6
    svds = measured["one_encoder_layer"]["encoder_layer"]["times_faster"]
    return (
        "subspaces from a gradient, sketched (`exact_bytes=0`), "
        f"{measured['memory']['adapted_modules']} modules of 768 and 3072",
        f"{ratio:.1f} times a forward+backward in time, {extra:.1f} MB of extra memory; {svds:.0f} times faster than "
        "the full SVDs of the wide construction",
    )


def completion_row() -> tuple[str, str]:
    steps, large = (result(f"completion_step_{size}")["methods"] for size in (1000, 5000))
    wide = 1 / steps["compressed"]["ratio_to_wide"]["median"], 1 / steps["observed"]["ratio_to_wide"]["median"]
    dense = 1 / large["observed"]["ratio_to_compressed"]["median"]
    return (
        "step of matrix completion, depth 3, true rank 5",
        f"1000 x 1000, 20 % observed: {wide[0]:.1f} times faster than the wide one, {wide[1]:.0f} times on observed "
        f"entries; 5000 x 5000, 1 % observed: observed entries {dense:.0f} times faster than a dense residual",
    )


def table() -> str:
    rows = [
        *step_rows(), rule_row(), initialization_row(), sketch_row(),
        export_row(), completion_row(),
    ]  # fmt: skip
    return markdown(["what", "measured"], [list(row) for row in rows])


TABLES: Mapping[str, Callable[[], str]] = {"figures": table}
