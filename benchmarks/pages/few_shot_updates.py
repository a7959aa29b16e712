"""Tables of the few-shot campaign on what the learned updates are: exports, effective ranks, texts, tracking."""

from __future__ import annotations

from collections.abc import Callable

from evidence_tables import BASELINE, BOTH, BOUNDED, BOUNDED_DEEPER, OLD, UNTUNED, comparisons, methods_of, title
from markdown_tables import interval, markdown, result

RANK = 8
TRACKING = "tracking_wide"


def export_table() -> str:
    """What `to_lora(tolerance=...)` keeps of 8 ranks, and what the test score loses by it."""
    rows = []
    for name in comparisons():
        for method in (UNTUNED, BOUNDED, BOUNDED_DEEPER, BOTH, OLD):
            for export in methods_of(name).get(method, {"exported": []})["exported"]:
                change = interval(export["test_minus_full"], 100, 2, "+")
                kept = [f"{export['median_rank']:g}", f"{export['max_rank']:g}"]
                rows.append([title(name), method, f"{export['tolerance']:g}", *kept, change])
    header = ["setting", "method", "tolerance", "median kept rank", "largest kept rank"]
    return markdown([*header, "test score, change in points"], rows)


def ranked() -> list[str]:
    """Settings whose runs recorded the effective rank of every module, of both methods."""
    return [name for name in comparisons() if all("ranks" in methods_of(name)[m] for m in (BASELINE, UNTUNED))]


def rank_shares(name: str, method: str) -> list[float]:
    """Share of modules of effective rank 0, 1, ... 8."""
    counts = methods_of(name)[method]["ranks"]
    total = sum(counts.values())
    return [counts.get(str(rank), 0) / total for rank in range(RANK + 1)]


def effective_ranks() -> str:
    """Per cent of modules by the effective rank of their update."""
    rows = []
    for name in ranked():
        for method in (BASELINE, UNTUNED, BOTH, OLD):
            if "ranks" in methods_of(name).get(method, {}):
                shares = [f"{100 * share:.0f}" for share in rank_shares(name, method)]
                rows.append([title(name), method, *shares])
    return markdown(["setting", "method", *(f"rank {rank}" for rank in range(RANK + 1))], rows)


def written() -> str:
    """BLEU and ROUGE-L of what the models write."""
    rows = []
    for name in writing():
        for method, row in methods_of(name).items():
            if "written" in row:
                rows.append([title(name), method, *(interval(score, 1, 1) for score in row["written"].values())])
    return markdown(["setting", "method", "BLEU", "ROUGE-L x 100"], rows)


def tracking() -> str:
    """Training loss at some steps, means of ten, and the overlap of wide and compressed."""
    found = result(TRACKING)
    steps = [step for step in found["settings"]["measured_steps"] if step >= 10]
    rows = []
    for method, losses in found["losses"].items():
        windows = [losses[step - 10 : step] for step in steps]
        rows.append([f"loss, {method}", *(f"{sum(window) / len(window):.4f}" for window in windows)])
    for side in ("left", "right", "chance"):
        shares = {point["step"]: point[side] for point in found["overlaps"]}
        name = (
            "share that a random subspace holds" if side == "chance" else f"share of the wide update's {side} vectors"
        )
        rows.append([name, *(f"{shares[step]:.2f}" for step in steps)])
    return markdown(["", *(f"step {step}" for step in steps)], rows)


def writing() -> list[str]:
    """Settings whose models write."""
    return [name for name in comparisons() if any("written" in row for row in methods_of(name).values())]


LEAVING: dict[str, Callable[[], str]] = {
    "exports": export_table, "effective ranks": effective_ranks, "tracking": tracking,
    **({"written": written} if writing() else {}),
}  # fmt: skip
