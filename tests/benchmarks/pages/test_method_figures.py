"""What the titles of the pictures of methods say is so in the results."""

from __future__ import annotations

import pytest

from benchmarks.pages.method_figures import COLLAPSE, SHARES, STATES, WINDOW
from benchmarks.result_files import result


def test_the_subspace_of_the_first_gradient_holds_many_times_what_chance_does() -> None:
    shares = {name: {point["step"]: point[name] for point in result("tracking_wide")["overlaps"]} for name in SHARES}
    for side, percent, times in (("right", 33, 18), ("left", 17, 10)):
        assert round(100 * shares[side][50.0]) == percent
        assert round(shares[side][50.0] / shares["chance"][50.0]) == times
        assert all(shares[side][step] > 2 * chance for step, chance in shares["chance"].items())


def test_the_small_chain_follows_the_wide_one_until_that_diverges() -> None:
    wide, small, ours = (
        [sum(losses[start : start + WINDOW]) / WINDOW for start in range(0, len(losses), WINDOW)]
        for losses in (result("tracking_wide")["losses"][name] for name in (
            "wide, rate 1e-3", "compressed, the paper's rates", "compressed, start 0.3"
        ))
    )  # fmt: skip
    assert small[:6] == pytest.approx(wide[:6], rel=0.2) and wide[-1] > 3 * wide[0]
    assert small[-1] < wide[0] / 2 and ours[-1] < small[-1]


def test_a_normalized_head_collapses_sooner_and_further_at_the_same_accuracy() -> None:
    runs = result("neural_collapse_images")["runs"]
    plain, normalized = (
        [run["curve"] for name, run in runs.items() if name.startswith(f"final | {method} |")] for method in COLLAPSE
    )
    assert len(plain) == len(normalized) >= 5
    for early, place in ((True, 2), (False, -1)):
        assert max(curve["nc1"][place] for curve in normalized) < min(curve["nc1"][place] for curve in plain), early
    means = [sum(curve["test_accuracy"][-1] for curve in curves) / len(curves) for curves in (plain, normalized)]
    assert means[1] == pytest.approx(means[0], abs=0.01)


def test_centering_closes_the_gap_and_retrieval_does_not_suffer() -> None:
    rows = result("modality_gap")["frozen"]
    for trained, centered in zip(*STATES.values(), strict=True):
        before, after = rows[trained]["test"], rows[centered]["test"]
        assert after["gap"]["high"] < before["gap"]["low"] / 10
        assert after["recall@1"]["high"] > before["recall@1"]["mean"]
