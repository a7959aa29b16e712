"""What `README.md` says in numbers: its bullets, when to use which adapter, and one line for each other package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.few_shot.comparisons import (
    BASELINE,
    LOSSES,
    RULED,
    ahead,
    all_gaps,
    best_one_rate,
    compared,
    families,
    in_points,
    methods_of,
    overall,
    spread,
    task_of,
    with_all_rates,
    with_all_seeds,
)  # fmt: skip
from benchmarks.markdown import interval, markdown
from benchmarks.pages.few_shot_tables import RATE_TASKS
from benchmarks.result_files import result

KINDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "similarity of words, 64 and 256 pairs": (("simlex", "rare_words"), "Deep LoRA"),
    "relatedness of words, 64 and 256 pairs": (("wordsim", "men"), "either"),
    "similarity of sentences, 256 and 1,024 pairs": (("stsb",), "either"),
    "sentiment of reviews, 16 to 1,024": (("rotten_tomatoes",), "either; LoRA for a thousand"),
    "text written by a small language model, 16 and 64 samples": (LOSSES, "either, but not LoRA at its usual rate"),
}
NOISY = "noisy labels, words and reviews"


def bullets() -> str:
    """Write what Deep LoRA gives, each with one number."""
    every, rates, rival = with_all_seeds(), with_all_rates(), best_one_rate()
    tuned, single = ahead(every, RULED, BASELINE, all_gaps), ahead(rates, RULED, rival, all_gaps)
    found = families(RATE_TASKS[0], "rate ")
    spreads = {family: 100 * spread(row.values()) for family, row in found.items()}
    worst = min(overall(name, RULED)["mean"] for name in in_points())
    time, short = step_ratios()
    exports = [export for name in in_points() for export in methods_of(name)[RULED]["exported"]]
    small = [export for export in exports if export["tolerance"] == 0.1]
    kept, changes = [export["median_rank"] for export in small], [export["test_minus_full"]["mean"] for export in small]
    low, high = (f"{value:g}".replace("e-0", "e-") for value in (min(found[RULED]), max(found[RULED])))
    return "\n".join(
        [
            f"- **Nothing to tune.** At learning rates from {low} to {high} the score stays within "
            f"{max(0.1, spreads[RULED]):.1f} points; LoRA's drops by {spreads['LoRA']:.0f}.",
            f"- **As good as a LoRA tuned for every task**: {_points(tuned)} points ahead in the mean of "
            f"{len(every)} few-shot settings, and at worst {-100 * worst:.1f} behind.",
            f"- **Better than any single LoRA rate for all tasks**: {_points(single)} points ahead of the best one.",
            f"- **Steps cost about as much as LoRA's**: {time:.2f} of the time at 16 x 128 tokens on a CPU, "
            f"up to {short:.2f} at 16 x 6.",
            f"- **Saved as plain LoRA**, exactly; or smaller: {min(kept):g} to {max(kept):g} of 8 ranks at "
            f"`tolerance=0.1`, with scores within {100 * max(map(abs, changes)):.1f} points.",
        ]
    )


def _points(found: dict[str, Any] | None) -> str:
    assert found is not None  # for mypy: all of these settings have both methods
    return interval(found, 100, 1, "+")


def step_ratios() -> tuple[float, float]:
    """Return the time of a long and of a short training step under the rule, as shares of LoRA's."""
    times = []
    for name in ("step_rule_384", "step_rule_384_short"):
        methods = result(name)["methods"]
        ruled, lora = (methods[method]["all_seconds"] for method in ("deep_lora_ruled", "lora"))
        times.append(median(a / b for a, b in zip(ruled, lora, strict=True)))
    return times[0], times[1]


def when() -> str:
    """Write for each kind of task how far Deep LoRA is ahead of tuned LoRA, and what to take."""
    rows = []
    for kind, (tasks, take) in KINDS.items():
        names = [name for name in compared() if task_of(name)["name"] in tasks and not task_of(name).get("noise")]
        unit = " hundredths of a nat" if tasks is LOSSES else ""
        rows.append([kind, _range(names) + unit, take])
    rows.append([NOISY, _range([name for name in compared() if task_of(name).get("noise")]), "Deep LoRA"])
    return markdown(["your task", "Deep LoRA, nothing set, against tuned LoRA", "take"], rows)


def _range(names: Sequence[str]) -> str:
    """Write the smallest and the largest mean difference."""
    means = [round(100 * overall(name, RULED)["mean"], 1) + 0.0 for name in names]
    return f"{min(means):+.1f} to {max(means):+.1f}" if len(means) > 1 else f"{means[0]:+.1f}"


def also() -> str:
    """Write one line and one number for each of the other packages."""
    ratings = result("recommenders")["summary"]
    ours, peer = (ratings[name]["u1 to u5"]["rmse"] for name in ("MatrixCompletion()", "cmfrec CMF()"))
    steps = result("neural_collapse_images")["table"]["normalized scale=3"]["mean_ratio"]["mean"]
    gap, closed = (
        result("modality_gap")["frozen"][name]["test"]["gap"]["mean"]
        for name in ("learnable from 0.01", "mean shift of learnable from 0.01")
    )
    return "\n".join(
        [
            "- [`dmf`](docs/dmf.md): matrix completion and recommendations. On MovieLens-100K with its defaults: RMSE "
            f"{ours:.3f}, against cmfrec's {peer:.3f}.",
            "- [`collapse`](docs/collapse.md): classifier heads on the sphere, and metrics of neural collapse. "
            f"On Fashion-MNIST one takes {100 * steps:.0f} % of the steps to collapse as far as plain cross-entropy.",
            "- [`modality`](docs/modality.md): CLIP-like training, and the gap between modalities. Centering shrinks "
            f"it from {gap:.2f} to {closed:.2f} on emoji and captions.",
        ]
    )


TABLES: Mapping[str, Callable[[], str]] = {"bullets": bullets, "when": when, "also": also}
