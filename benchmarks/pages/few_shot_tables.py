"""Tables of the few-shot campaign, for the evidence pages, made from `benchmarks/results/few_shot_*.json` alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import fmean
from typing import Any

from markdown_tables import FOLDER, interval, markdown, result

BASELINE, UNTUNED = "LoRA, tuned", "Deep LoRA"
BOTH, OLD, UNTUNED_BASELINE = "Deep LoRA, both sides", "Deep LoRA, start 1e-3", "LoRA, not tuned"
DEEPER, OTHER_RATES = "Deep LoRA, depth 5", ("LoRA, not tuned, 3e-4", "LoRA, not tuned, 3e-3")
ONE_RATE = (UNTUNED_BASELINE, *OTHER_RATES)
BOUNDED, BOUNDED_DEEPER, BOUNDED_LORA = "Deep LoRA, bounded", "Deep LoRA, bounded, depth 5", "LoRA, bounded"
LIMITED, LIMITED_LORA = "Deep LoRA, bounded, steps limited", "LoRA, bounded, steps limited"
LIMITED_DEEPER, LIMITED_TUNED = f"{LIMITED}, depth 5", f"{LIMITED}, tuned"
LIMITED_HIGHER = f"{LIMITED} to 0.02, depth 5"
OURS = (
    UNTUNED,
    DEEPER,
    BOUNDED,
    LIMITED,
    BOUNDED_DEEPER,
    LIMITED_DEEPER,
    LIMITED_HIGHER,
)  # with one rate for all settings
LOSSES = ("e2e", "glosses")  # tasks whose score is minus a loss, not a share of something
FAMILIES = {"ranks": "r=", "rates": "rate "}  # kinds of settings that compare values of one thing, and its name there
FALLING = "_linear"  # how the settings end in which all rates fall to 0
SEEDS = 10  # of a setting that counts in a mean over settings
COMPARED_RANKS = (4, 64)
Means = dict[str, dict[float, dict[str, float]]]


def methods_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["methods"]


def settings_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["settings"]


def results() -> list[str]:
    """All settings with a result, in their order, but the main job's own file."""
    paths = (FOLDER / "settings").glob("few_shot_*.json")
    settings = [path.stem.removeprefix("few_shot_") for path in paths if (FOLDER / "results" / path.name).is_file()]
    return sorted(settings, key=lambda name: (settings_of(name)["order"], name))


def comparisons(falling: bool | None = None) -> list[str]:
    """The settings in which Deep LoRA as it is stands against tuned LoRA, each once: all, or of one kind of rate."""
    needed = {BASELINE, UNTUNED, UNTUNED_BASELINE}
    return [
        name
        for name in results()
        if settings_of(name)["baseline"] == BASELINE
        and needed <= methods_of(name).keys()
        and falling in (None, name.endswith(FALLING))
    ]


def in_points(falling: bool | None = None) -> list[str]:
    """Of these, the ones whose score is a correlation or an accuracy."""
    return [name for name in comparisons(falling) if settings_of(name)["task"]["name"] not in LOSSES]


def with_enough_seeds(falling: bool) -> list[str]:
    """Of these, the ones with as many seeds as a mean over settings asks for."""
    return [name for name in in_points(falling) if methods_of(name)[UNTUNED]["seeds_compared"] >= SEEDS]


def averaged(falling: bool) -> list[str]:
    """Of these, the ones in which LoRA ran at all of its single rates, if they fall."""
    return [name for name in with_enough_seeds(falling) if not falling or set(ONE_RATE) <= methods_of(name).keys()]


def title(name: str) -> str:
    text: str = settings_of(name)["title"]
    return text


def gaps(name: str, method: str, other: str) -> list[float]:
    """Seed by seed, what a method's test score is ahead of another's."""
    mine, theirs = (methods_of(name)[which]["test"]["values"] for which in (method, other))
    return [ours - its for ours, its in zip(mine, theirs, strict=False)]


def comparison(name: str) -> str:
    """One row for each method: mean and 95 % interval of the test score in points, and of the paired difference."""
    rows = []
    for method, row in methods_of(name).items():
        others = method != settings_of(name)["baseline"]
        difference = interval(row["difference"], 100, 1, "+") if others else ""
        won = f"{row['seeds_won']} of {row['seeds_compared']}" if others else ""
        rate, tuned = f"{row['chosen']['rate']:g}", tuned_fields(name, method)
        score, loss = interval(row["test"], 100, 1), f"{row['loss'][-1]:.4f}"
        rows.append([method, rate, tuned, score, difference, won, loss, f"{row['median_cpu_seconds']:.0f}"])
    header = ["method", "rate", "more that was chosen", "test score, points", "difference, points", "seeds won"]
    return markdown([*header, "last training loss", "CPU s a run"], rows)


def tuned_fields(name: str, method: str) -> str:
    """Fields of the configuration that the sweep decided, with the library's default where it kept that."""
    changes = settings_of(name)["methods"][method].get("then", [])
    fields = sorted({field for change in changes for field in change})
    chosen = methods_of(name)[method]["chosen"]["config"]
    return ", ".join(f"{field} {chosen.get(field, 'as by default')}" for field in fields)


def sweeps() -> str:
    """What the choices were made by: mean validation score of every candidate, each sweep once."""
    rows, seen = [], set()
    for name in results():
        for method, row in methods_of(name).items():
            tried = [f"{label(name, method, c)}: {100 * fmean(c['validation']):.1f}" for c in row["sweep"]]
            line = (str(settings_of(name)["task"]), "; ".join(tried))
            if tried and line not in seen:
                rows.append([title(name), method, line[1]])
            seen.add(line)
    return markdown(["setting", "method", "validation score, points, mean of the sweep's seeds"], rows)


def label(name: str, method: str, candidate: dict[str, Any]) -> str:
    """The rate, and what differs from the configuration that the sweep began with."""
    asked = settings_of(name)["methods"][method]
    begun = asked["config"] | {"max_relative_step": asked.get("max_relative_step")}
    changed = [f"{field} {value}" for field, value in candidate["config"].items() if begun.get(field) != value]
    return ", ".join([f"{candidate['rate']:g}", *changed])


def families(name: str, separator: str) -> Means:
    """Family -> value -> test score with its interval, of methods that are called by both."""
    found: Means = {}
    for method, row in methods_of(name).items():
        matched = re.fullmatch(f"(.*), {separator}([0-9.e-]+)", method)
        if matched:
            found.setdefault(matched[1], {})[float(matched[2])] = row["test"]
    return {family: dict(sorted(scores.items())) for family, scores in found.items()}


def kind_of(name: str) -> str | None:
    """Whether a setting goes through ranks or rates.

    >>> kind_of("simlex_64_rates_linear"), kind_of("simlex_64_linear")
    ('rates', None)
    """
    return next((kind for kind in FAMILIES if name.removesuffix(FALLING).endswith(f"_{kind}")), None)


def of_kind(kind: str) -> list[str]:
    """The settings that go through ranks, or through rates."""
    return [name for name in results() if kind_of(name) == kind]


def family_means(name: str) -> Means:
    """Of a setting that goes through ranks or rates."""
    return families(name, FAMILIES[str(kind_of(name))])


def spread(scores: dict[float, dict[str, float]]) -> float:
    """Largest minus smallest mean over the compared ranks."""
    low, high = COMPARED_RANKS
    values = [score["mean"] for rank, score in scores.items() if low <= rank <= high]
    return max(values) - min(values)


def good_values(scores: dict[float, dict[str, float]], margin: float = 0.01) -> list[float]:
    """The values whose mean is within `margin` of the best.

    >>> good_values({1.0: {"mean": 0.5}, 2.0: {"mean": 0.495}, 3.0: {"mean": 0.4}})
    [1.0, 2.0]
    """
    best = max(score["mean"] for score in scores.values())
    return [value for value, score in scores.items() if score["mean"] >= best - margin]


def family_table(name: str) -> str:
    """Test scores over the ranks, with the spread, or over the rates, with the good ones."""
    if kind_of(name) == "ranks":
        last = "largest minus smallest mean, r = 4 to 64"
        return _family_table(family_means(name), "r = {:g}", last, lambda scores: f"{100 * spread(scores):.1f}")
    return _family_table(family_means(name), "{:g}", "rates within a point of the best", good_range)


def good_range(scores: dict[float, dict[str, float]]) -> str:
    """The smallest and the largest of the good values.

    >>> good_range({1.0: {"mean": 0.5}, 2.0: {"mean": 0.495}, 3.0: {"mean": 0.4}})
    '1 to 2'
    >>> good_range({1.0: {"mean": 0.5}, 2.0: {"mean": 0.4}})
    '1 only'
    """
    values = good_values(scores)
    return f"{min(values):g} to {max(values):g}" if len(values) > 1 else f"{values[0]:g} only"


def _family_table(
    measured: Means, heading: str, last: str, summary: Callable[[dict[float, dict[str, float]]], str]
) -> str:
    values = sorted({value for scores in measured.values() for value in scores})
    rows = [
        [family, *(interval(scores[v], 100, 1) if v in scores else "" for v in values), summary(scores)]
        for family, scores in measured.items()
    ]
    return markdown(["method", *map(heading.format, values), last], rows)


TABLES: dict[str, Callable[[], str]] = {
    "sweeps": sweeps,
    **{name: lambda name=name: (family_table if kind_of(name) else comparison)(name) for name in results()},
}
