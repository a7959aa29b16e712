"""The figure and the tables of `docs/dmf.md` are of the results."""

from __future__ import annotations

from benchmarks.pages import recommenders
from benchmarks.result_files import result


def test_the_figure_is_an_svg_with_the_same_bytes_each_time_and_names_every_method(tmp_path) -> None:
    for name in ("one.svg", "two.svg"):
        recommenders.draw(tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    text = (tmp_path / "one.svg").read_text(encoding="utf8")
    methods = {run["method"] for run in result("recommenders")["runs"]}
    assert text.startswith("<?xml") and all(f"<!-- {method} -->" in text for method in methods)


def test_the_table_of_errors_gives_the_means_of_the_runs() -> None:
    runs = [run for run in result("recommenders")["runs"] if "rmse" in run and run["split"].startswith("u")]
    rows = {line.split("|")[1].strip(" `"): line for line in recommenders.errors().splitlines()[2:]}
    assert rows.keys() == {run["method"] for run in runs}
    for method, row in rows.items():
        own = [run["rmse"] for run in runs if run["method"] == method]
        assert len(own) == 5 and abs(float(row.split("|")[3]) - sum(own) / 5) <= 1e-4
