"""What a comparison of Deep LoRA with LoRA writes: one table, one picture and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.results.figures import figure
from training.results.intervals import mean_with_interval

OURS = "Deep LoRA"
_EXACT = 1e-12  # differences that are equal up to rounding


@dataclass(frozen=True)
class Outcome:
    """Scores of Deep LoRA and of its rivals on the same seeds.

    Attributes:
        metric: that is compared.
        falling: whether less of it is better.
        split: of the data it is measured on, "test" or "validation".
        seeds: of the pairs.
        scores: name of a method -> its scores, seed by seed; Deep LoRA is the first.
        tuned: whether a rate was chosen on the validation data.
    """

    metric: str
    falling: bool
    split: str
    seeds: Sequence[int]
    scores: Mapping[str, Sequence[float]]
    tuned: bool = False
    rivals: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rivals", [name for name in self.scores if name != OURS])

    def differences(self, rival: str) -> list[float]:
        """Return by how much Deep LoRA's score differs from that of a rival, seed by seed."""
        return [ours - its for ours, its in zip(self.scores[OURS], self.scores[rival], strict=True)]

    def as_json(self) -> dict[str, Any]:
        """Return everything in the terms of JSON."""
        return {
            "metric": self.metric,
            "less_is_better": self.falling,
            "data": self.split,
            "seeds": list(self.seeds),
            "methods": {
                name: {"scores": list(values), **mean_with_interval(values)}
                | ({} if name == OURS else {"difference": mean_with_interval(self.differences(name))})
                for name, values in self.scores.items()
            },
            "verdict": verdict(self),
            "caveats": caveats(self),
        }


def verdict(outcome: Outcome) -> str:
    """Say which method is ahead of the other, the best-tuned rival, or that the seeds cannot tell.

    >>> scores = {OURS: [0.80, 0.82, 0.81], "LoRA (rate 0.001)": [0.80, 0.80, 0.82]}
    >>> verdict(Outcome("accuracy", False, "test", [0, 1, 2], scores))[:72]
    'Level: the difference in accuracy between Deep LoRA and LoRA (rate 0.001'
    """
    rival = outcome.rivals[-1]
    gaps, count = outcome.differences(rival), len(outcome.seeds)
    found = mean_with_interval(gaps)
    mean, low, high = found["mean"], found["low"], found["high"]
    ahead, behind = (OURS, rival) if (mean < 0) == outcome.falling else (rival, OURS)
    if max(gaps) - min(gaps) <= _EXACT:
        if abs(mean) <= _EXACT:
            return f"Level: {OURS} and {rival} have the same {outcome.metric} in all {count} pairs."
        return (
            f"{ahead} is ahead of {behind} by the very same {abs(mean):.4g} of {outcome.metric} in all {count} pairs, "
            "so there is no interval; more rows to test on, or more seeds, would tell how sure that is."
        )
    if low <= 0 <= high:
        return (
            f"Level: the difference in {outcome.metric} between {OURS} and {rival} is smaller than its interval "
            f"({mean:+.4g}, 95 % from {low:+.4g} to {high:+.4g}, {count} pairs)."
        )
    least, most = sorted((abs(low), abs(high)))
    return (
        f"{ahead} is ahead of {behind} by {abs(mean):.4g} in {outcome.metric} (95 % from {least:.4g} to {most:.4g}, "
        f"{count} pairs)."
    )


def caveats(outcome: Outcome) -> list[str]:
    """Say what the figures do not tell."""
    found = []
    if outcome.split == "validation":
        found.append("Scores are those of the validation data, as there are no test data (--test_data).")
        if outcome.tuned:
            found.append("The tuned rate was chosen on the very rows that it is scored on, which favors LoRA.")
    found.append("The pairs differ in their seeds, and the rows that these draw; other data can give another answer.")
    return found


def table(outcome: Outcome) -> str:
    """Return means, and differences to Deep LoRA, with their intervals, as text of at most 80 columns."""
    better = "less" if outcome.falling else "more"
    width = max(map(len, outcome.scores))
    lines = [
        f"{outcome.metric} of the {outcome.split} data ({better} is better), {len(outcome.seeds)} pairs, with 95 % "
        "intervals",
        "",
        f"{'':<{width}}    mean      from     to     {OURS} minus it",
    ]
    for name, values in outcome.scores.items():
        line = f"{name:<{width}}  {_cells(mean_with_interval(values))}"
        if name != OURS:
            gap = mean_with_interval(outcome.differences(name))
            line += f"   {gap['mean']:+.4g} ({gap['low']:+.3g} to {gap['high']:+.3g})"
        lines.append(line)
    return "\n".join(lines)


def _cells(found: Mapping[str, float]) -> str:
    return f"{found['mean']:>8.4g}  {found['low']:>7.4g} {found['high']:>7.4g}"


def draw(path: Path, outcome: Outcome) -> None:
    """Draw the scores of each pair, joined by a line, and the differences with their intervals."""
    names = list(outcome.scores)
    short = [name.replace(" (", "\n(") for name in names]
    with figure(path, columns=2) as (pairs, gaps):
        for place in range(len(outcome.seeds)):
            pairs.plot(range(len(names)), [outcome.scores[name][place] for name in names], color="0.7", marker=".")
        means = [mean_with_interval(outcome.scores[name]) for name in names]
        pairs.plot(range(len(names)), [one["mean"] for one in means], "o", color="C0", label="mean")
        pairs.set_xticks(range(len(names)), short)
        pairs.set(ylabel=f"{outcome.metric}, {outcome.split} data", title=f"{len(outcome.seeds)} pairs of runs")
        pairs.legend()
        for place, name in enumerate(outcome.rivals):
            one = mean_with_interval(outcome.differences(name))
            bars = [[one["mean"] - one["low"]], [one["high"] - one["mean"]]]
            gaps.errorbar([place], [one["mean"]], yerr=bars, fmt="o", capsize=6, color="C0")
        gaps.axhline(0.0, color="0.5", linewidth=1)
        gaps.set_xticks(range(len(outcome.rivals)), [name.replace(" (", "\n(") for name in outcome.rivals])
        gaps.set_xlim(-0.6, len(outcome.rivals) - 0.4)
        gaps.set(title=f"{OURS} minus LoRA, 95 % intervals", ylabel=f"difference in {outcome.metric}")
        for place in (pairs, gaps):
            place.grid(alpha=0.3)
