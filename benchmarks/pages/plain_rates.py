"""The table of `docs/migration.md`: what is learned without the step rule, by rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.markdown import markdown
from benchmarks.result_files import result


def by_rate() -> str:
    """Write the accuracy of every method at every rate, in percent."""
    found = result("plain_rates")
    rates = [f"{rate:g}" for rate in found["settings"]["rates"]]
    rows = [[name, *(f"{100 * by[rate]['mean']:.1f}" for rate in rates)] for name, by in found["methods"].items()]
    return markdown([f"accuracy in %, mean of {found['settings']['seeds']} seeds, by rate", *rates], rows)


TABLES: Mapping[str, Callable[[], str]] = {"plain rates": by_rate}
