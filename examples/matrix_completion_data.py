"""Real matrices for `matrix_completion.py`: ratings and a photograph, out of installed packages."""

from __future__ import annotations

import csv
import io
import tarfile
from typing import NamedTuple

import numpy as np
from packaged_files import packaged_file

MOVIELENS = ("recbole", "1.2.1", "recbole/dataset_example/ml-100k/ml-100k.inter")
INSTEVAL = ("pydataset", "0.2.0", "pydataset/resources.tar.gz")
INSTEVAL_MEMBER = "resources/rdata/csv/lme4/InstEval.csv"


class Ratings(NamedTuple):
    """Ratings `values[k]` of item `cols[k]` by person `rows[k]`, both numbered from 0."""

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    def select(self, positions: np.ndarray) -> Ratings:
        return Ratings(self.rows[positions], self.cols[positions], self.values[positions], self.shape)


def movielens() -> Ratings:
    """MovieLens-100K: 943 users, 1,682 films, 100,000 ratings from 1 to 5.

    Source: Harper and Konstan, ACM TiiS 2015; GroupLens permits research use and no redistribution, so it is read where
    recbole installed it. recbole's code is neither imported nor needed.
    """
    table = np.loadtxt(packaged_file(*MOVIELENS), skiprows=1)
    return Ratings(table[:, 0].astype(int) - 1, table[:, 1].astype(int) - 1, table[:, 2], (943, 1682))


def insteval() -> Ratings:
    """InstEval: 2,972 students of ETH Zurich, 1,128 lecturers, 73,421 ratings from 1 to 5.

    A student who rated a lecturer more than once counts with the mean.

    Source: the R package lme4 (Bates et al., 2015), as pydataset carries it.
    """
    with tarfile.open(packaged_file(*INSTEVAL)) as archive:
        member = archive.extractfile(INSTEVAL_MEMBER)
        assert member is not None  # it is a plain file, and a missing one is a KeyError
        lines = list(csv.DictReader(io.TextIOWrapper(member, "utf8")))
    students, rows = np.unique([line["s"] for line in lines], return_inverse=True)
    lecturers, cols = np.unique([line["d"] for line in lines], return_inverse=True)
    shape = (len(students), len(lecturers))
    pairs, position = np.unique(rows * shape[1] + cols, return_inverse=True)
    values = np.bincount(position, [float(line["y"]) for line in lines]) / np.bincount(position)
    return Ratings(pairs // shape[1], pairs % shape[1], values, shape)


def split_ratings(ratings: Ratings, fraction: float, seed: int) -> tuple[Ratings, Ratings]:
    """A random split: (the rest, the given fraction)."""
    order = np.random.default_rng(seed).permutation(len(ratings.values))
    held_out = round(fraction * len(order))
    return ratings.select(order[held_out:]), ratings.select(order[:held_out])


def made_up_ratings(seed: int, people: int = 120, items: int = 80, rank: int = 3) -> Ratings:
    """A third of a noisy matrix of low rank, with values from 1 to 5; nothing has to be installed for it."""
    generator = np.random.default_rng(seed)
    whole = generator.normal(size=(people, rank)) @ generator.normal(size=(rank, items))
    rows, cols = np.nonzero(generator.random((people, items)) < 1 / 3)
    values = 3 + whole[rows, cols] / 2 + 0.2 * generator.normal(size=len(rows))
    return Ratings(rows, cols, np.clip(values, 1.0, 5.0), (people, items))


def photograph(missing: float, seed: int, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A grey photograph, 427 x 640 with values from 0 to 1, and the same with random pixels missing (NaN).

    Of its rows and columns only each `every`-th is taken.

    Source: "china.jpg" in scikit-learn.
    """
    from sklearn.datasets import load_sample_image

    whole = load_sample_image("china.jpg")[::every, ::every].mean(axis=2) / 255
    damaged = np.where(np.random.default_rng(seed).random(whole.shape) < missing, np.nan, whole)
    return whole, damaged
