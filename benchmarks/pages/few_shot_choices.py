"""Tables of how the step rule was chosen, and of what LoRA chose, made from `benchmarks/results` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from benchmarks.few_shot.comparisons import (
    BASELINE,
    BATCHED,
    RULED,
    ahead,
    all_gaps,
    in_points,
    methods_of,
    overall,
    summarized,
    task_of,
    title,
    with_all_seeds,
)
from benchmarks.markdown import markdown
from benchmarks.pages.few_shot_tables import summed
from benchmarks.result_files import SETTINGS, read_json, result

EARLIER = {
    "Deep LoRA, path 0.12, no guard": "path 0.12, guarded on tokens alone",
    "Deep LoRA, path 0.24, cubed guard": "path 0.24, cube of the slope over its mean, unless the loss is a likelihood",
    "Deep LoRA, classes by first slopes": "path 0.12, classes guarded as tokens are",
}
SEARCHED, CLASSES = ("similarity_", "scores_"), "classes_"  # how the settings of the third and the fourth search begin


def earlier() -> str:
    """Write how the earlier step rules did on the compared seeds, in the mean and where they were worst."""
    rows = []
    for method, rule in EARLIER.items():
        names = [name for name in in_points() if method in methods_of(name)]
        gaps = {name: methods_of(name)[method]["difference"]["mean"] for name in names}
        worst = sorted(names, key=lambda name: gaps[name])[:2]
        shown = "; ".join(f"{title(name)} {100 * gaps[name]:+.1f}" for name in worst)
        rows.append([rule, str(len(names)), f"{100 * fmean(gaps.values()):+.1f}", shown])
    return markdown(["earlier rule", "settings", "mean, points ahead of tuned LoRA", "worst"], rows)


def search() -> str:
    """Write validation scores of the search on similarities, means over the seeds that all variants have."""
    found = result("step_search")
    asked = {name: row for name, row in found["settings"]["settings"].items() if name.startswith(SEARCHED)}
    rows = {variant: [variant] for setting in asked.values() for variant in setting["variants"]}
    heads = []
    for name, setting in asked.items():
        validation = _validation(found["trials"], name)
        seeds = set.intersection(*(set(validation[variant]) for variant in setting["variants"]))
        for variant, row in rows.items():
            scores = [score for seed, score in validation.get(variant, {}).items() if seed in seeds]
            row.append(f"{100 * fmean(scores):.1f}" if scores else "")
        heads.append(f"{_searched_task(setting)}, {len(seeds)} seeds")
    return markdown(["validation, points", *heads], list(rows.values()))


def search_of_classes() -> str:
    """Write how far variants are ahead of the earlier rule on reviews, on the seeds that both have."""
    found = result("step_search")
    asked = {name: row for name, row in found["settings"]["settings"].items() if name.startswith(CLASSES)}
    validation = {name: _validation(found["trials"], name) for name in asked}
    before, *others = next(iter(asked.values()))["variants"]
    rows = []
    for variant in others:
        gaps = [
            [score - of[before][seed] for seed, score in of[variant].items() if seed in of[before]]
            for of in validation.values()
        ]
        cells = [f"{100 * fmean(row):+.1f}" for row in gaps]
        rows.append([variant, str(len(gaps[0])), *cells, summed(summarized([gap for row in gaps for gap in row]))])
    tasks = [_searched_task(setting) for setting in asked.values()]
    return markdown([f"ahead of {before}", "seeds", *tasks, "all"], rows)


def _validation(trials: list[dict[str, Any]], setting: str) -> dict[str, dict[int, float]]:
    """Map variant -> seed -> score."""
    scores: dict[str, dict[int, float]] = {}
    for trial in trials:
        if trial["setting"] == setting:
            scores.setdefault(trial["variant"], {})[trial["seed"]] = trial["validation"]
    return scores


def _searched_task(setting: dict[str, Any]) -> str:
    """Name the task of a setting that was searched, with what it changes."""
    task = read_json(SETTINGS / f"{setting['base']}.json")["task"]
    steps = setting.get("task", {}).get("steps")
    return (
        f"{task['name']} {task['samples']}{', noisy' if task.get('noise') else ''}{f', {steps} steps' if steps else ''}"
    )


def batch_sizes() -> str:
    """Write what LoRA chose when its batch size was tuned too, and who is ahead then."""
    names = [name for name in with_all_seeds() if BATCHED in methods_of(name)]
    rows = []
    for name in names:
        chosen = methods_of(name)[BATCHED]["chosen"]
        size = chosen.get("batch_size", task_of(name)["batch"])
        rows.append([
            title(name), str(size), f"{chosen['rate']:g}", f"{chosen['config']['lora_alpha']}",
            summed(overall(name, BATCHED)), summed(summarized(all_gaps(name, RULED, BATCHED))),
        ])  # fmt: skip
    means = [summed(ahead(names, *pair, all_gaps)) for pair in ((BATCHED, BASELINE), (RULED, BATCHED))]
    rows.append([f"**mean of {len(names)} settings**", "", "", "", *means])
    heads = ["setting", "batch size", "rate", "alpha", "ahead of LoRA tuned at 8", "Deep LoRA ahead of it"]
    return markdown(heads, rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "earlier": earlier,
    "search": search,
    "search of classes": search_of_classes,
    "batch sizes": batch_sizes,
}
