"""Tables of the few-shot study, for its two pages, made from `benchmarks/results` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.few_shot.comparisons import (
    BASELINE,
    DEEPER,
    FIXED,
    FRESH,
    LATER,
    LOSSES,
    ONE_RATE,
    RULED,
    RULED_LORA,
    USUAL,
    ahead,
    all_gaps,
    all_scores,
    best_one_rate,
    compared,
    families,
    has,
    in_points,
    methods_of,
    overall,
    results,
    scores,
    spread,
    summarized,
    task_of,
    title,
    tuned_method,
    with_all_rates,
    with_all_seeds,
)  # fmt: skip
from benchmarks.markdown import interval, markdown
from benchmarks.result_files import result
from training.results.intervals import mean_with_interval

OURS = "Deep LoRA, nothing set"
BESIDE = {RULED: OURS, "LoRA, not tuned, 3e-4": "LoRA at 3e-4", USUAL: "LoRA at 1e-3", RULED_LORA: "LoRA, step rule"}
WITHOUT_RULE = (FIXED, DEEPER)
STEPS = (25, 50, 100, 200, 400)
LENGTHS = {"simlex_64": "SimLex-999, 64 word pairs", "rotten_tomatoes_64": "64 film reviews"}
SCHEDULES = {"rule_constant": "constant", "rule_cosine": "cosine", "linear": "linear, Trainer's default"}
ABLATIONS = {"simlex_64_ablations": "word pairs", "rotten_tomatoes_64_ablations": "reviews"}
RATE_TASKS = ("simlex_64_rates_linear", "rotten_tomatoes_64_rates_linear")
RANKS = "simlex_64_ranks_linear"


def settings_table() -> str:
    """Write tuned LoRA's score for each setting, the others' differences to it, and means over settings."""
    rows = []
    for name in compared():
        methods = methods_of(name)
        rows.append([_label(name), interval(methods[BASELINE]["test"], 100, 1)])
        rows[-1] += [summed(overall(name, method)) if method in methods else "" for method in BESIDE]
    for names, extra in ((with_all_seeds(), ""), (with_all_rates(), ", those with LoRA at three rates")):
        cells = [summed(ahead(names, method, BASELINE, all_gaps)) for method in BESIDE]
        rows.append([f"**mean of {len(names)} settings{extra}**", "", *cells])
    return markdown(["setting", "LoRA, tuned there", *BESIDE.values()], rows)


def _label(name: str) -> str:
    return title(name) + (" (nats x 100)" if task_of(name)["name"] in LOSSES else "")


def difference(row: dict[str, Any] | None) -> str:
    """Write a paired difference to the baseline with its interval and the seeds won."""
    if row is None:
        return ""
    return summed(row["difference"] | {"won": row["seeds_won"], "seeds": row["seeds_compared"]})


def summed(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{interval(found, 100, 1, '+')}, {found['won']} of {found['seeds']}"


def claims() -> str:
    """Write what Deep LoRA with nothing set is ahead of: on the first seeds, on fresh ones, and on all."""
    every, rates, rival = with_all_seeds(), with_all_rates(), best_one_rate()
    losses = {name: overall(name, RULED)["mean"] for name in in_points()}
    worst = min(losses, key=lambda name: losses[name])
    reviews = [name for name in every if has(name + LATER, RULED, BASELINE)]
    asked = (
        (f"LoRA, tuned in each of {len(every)} settings", every, BASELINE, FRESH),
        (
            f"the {len(reviews)} settings of reviews among them, fresh: seeds 20 to 29",
            reviews,
            BASELINE,
            LATER,
        ),
        (f"LoRA at {rival.rpartition(', ')[2]}, the best of three rates, {len(rates)} settings", rates, rival, FRESH),
        (f"LoRA under the same step rule, {len(every)} settings", every, RULED_LORA, FRESH),
        (f"tuned LoRA where the difference is worst: {title(worst)}", [worst], BASELINE, FRESH),
    )
    rows = []
    for label, names, other, ending in asked:
        fresh = [name + ending for name in names if has(name + ending, RULED, other)]
        both = len(fresh) == len(names)
        rows.append([
            label, summed(ahead(names, RULED, other)), summed(ahead(fresh, RULED, other)) if both else "",
            summed(ahead(names, RULED, other, all_gaps)) if both else "",
        ])  # fmt: skip
    return markdown(["points ahead, 95 % interval, seeds won", "the first seeds", "ten fresh seeds", "all"], rows)


def ranks() -> str:
    return _family_table(RANKS, "r=", "rank {:g}", ("LoRA, 1e-3", "LoRA, 3e-3", RULED))


def rates() -> str:
    """Write the scores at each rate: words, then reviews."""
    return "\n\n".join(_family_table(name, "rate ", "{:g}", ("LoRA", RULED), title(name)) for name in RATE_TASKS)


def _family_table(name: str, option: str, heading: str, shown: Iterable[str], label: str = "") -> str:
    found = families(name, option)
    rows = {family: found[family] for family in shown if family in found}
    values = sorted({value for row in rows.values() for value in row})
    body = [
        [family]
        + [f"{100 * row[value]['mean']:.1f}" if value in row else "" for value in values]
        + [f"{100 * spread(row.values()):.1f}"]
        for family, row in rows.items()
    ]
    return markdown([label, *map(heading.format, values), "largest minus smallest"], body)


def steps() -> str:
    """Write the scores of runs of different lengths, LoRA with the best of its rates at each."""
    rows = []
    for start, label in LENGTHS.items():
        for count in STEPS:
            name = f"{start}_linear" if count == 100 else f"{start}_{count}_steps_linear"
            if name not in results():
                continue
            rival = tuned_method(name)
            rate = methods_of(name)[rival]["chosen"]["rate"]
            rows.append([
                label, str(task_of(name)["steps"]), f"{rate:g}", interval(scores(name, rival), 100, 1),
                interval(scores(name, RULED), 100, 1), summed(summarized(all_gaps(name, RULED, rival))),
            ])  # fmt: skip
    return markdown(["task", "steps", "LoRA's best rate", "LoRA at it", OURS, "difference"], rows)


def schedules() -> str:
    """Write Deep LoRA's scores under three schedules of the rate, on the seeds that all three have."""
    rows = []
    for start, label in LENGTHS.items():
        values = [all_scores(f"{start}_{ending}", RULED) for ending in SCHEDULES]
        seeds = min(map(len, values))
        found = [mean_with_interval(row[:seeds]) for row in values]
        cells = [interval(row, 100, 1) for row in found]
        rows.append([label, str(seeds), *cells, f"{100 * spread(found):.1f}"])
    return markdown(["task", "seeds", *SCHEDULES.values(), "largest minus smallest"], rows)


def exports() -> str:
    """Write how many of 8 ranks an export keeps, and what that costs, over the settings."""
    found: dict[float, list[dict[str, Any]]] = {}
    for name in in_points():
        for export in methods_of(name)[RULED]["exported"]:
            found.setdefault(export["tolerance"], []).append(export)
    rows = []
    for tolerance, cells in sorted(found.items()):
        kept = [cell["median_rank"] for cell in cells]
        changes = [100 * cell["test_minus_full"]["mean"] for cell in cells]
        rows.append([f"{tolerance:g}", str(len(cells)), f"{min(kept):g} to {max(kept):g}",
                     f"{min(changes):+.2f} to {max(changes):+.2f}"])  # fmt: skip
    return markdown(["tolerance", "settings", "median kept rank of 8", "test score, change in points"], rows)


def ablations() -> str:
    """Write one change at a time of Deep LoRA at a fixed rate, on both tasks, and LoRA's relatives on word pairs."""
    found = {name: methods_of(name) for name in ABLATIONS}
    changes = dict.fromkeys(change for methods in found.values() for change in methods)
    rows = [[change, *(difference(methods.get(change)) for methods in found.values())] for change in changes]
    return markdown(["one change of the paper's form at 1e-3", *ABLATIONS.values()], rows[1:])


def relatives() -> str:
    """Write other methods on 64 word pairs, each with its own rate, against tuned LoRA."""
    methods = methods_of("simlex_64_peers")
    rows = [
        [method, f"{row['chosen']['rate']:g}", interval(row["test"], 100, 1),
         difference(row) if method != BASELINE else ""]
        for method, row in methods.items()
    ]  # fmt: skip
    return markdown(["method, rate swept", "rate", "test score, points", "ahead of tuned LoRA"], rows)


def without_rule() -> str:
    """Write the means of Deep LoRA at one rate for everything, without the step rule."""
    names = [name for name in with_all_seeds() if {FIXED, DEEPER, *ONE_RATE[:1]} <= methods_of(name).keys()]
    rows = [[method, summed(ahead(names, method, BASELINE))] for method in (RULED, *WITHOUT_RULE, USUAL)]
    return markdown([f"mean of {len(names)} settings", "ahead of tuned LoRA"], rows)


def tracking() -> str:
    """Write the training loss at some steps, means of ten, and the overlap of wide and compressed."""
    found = result("tracking_wide")
    shown = [step for step in found["settings"]["measured_steps"] if step >= 10]
    rows = []
    for method, losses in found["losses"].items():
        windows = [losses[step - 10 : step] for step in shown]
        rows.append([f"loss, {method}", *(f"{sum(window) / len(window):.4f}" for window in windows)])
    for side in ("left", "right", "chance"):
        shares = {point["step"]: point[side] for point in found["overlaps"]}
        name = "share that a random subspace holds" if side == "chance" else f"share of the wide form's {side} vectors"
        rows.append([name, *(f"{shares[step]:.2f}" for step in shown)])
    return markdown(["", *(f"step {step}" for step in shown)], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "claims": claims,
    "settings": settings_table,
    "rates": rates,
    "ranks": ranks,
    "steps": steps,
    "schedules": schedules,
    "exports": exports,
    "without rule": without_rule,
    "ablations": ablations,
    "relatives": relatives,
    "tracking": tracking,
}
