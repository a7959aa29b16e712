"""Texts and what follows them for `causal_lm.py`: WordNet's words and glosses, or a csv file; and made-up ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

DEFAULT_WORDNET = "/usr/share/wordnet"
HOW_TO_INSTALL = "`apt-get install wordnet-base`, or name the folder with --wordnet, or a csv file with --train_file"
PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
IGNORED = -100


class Pair(NamedTuple):
    """A text and its continuation, on which alone the loss is taken."""

    text: str
    target: str

    @property
    def prompt(self) -> str:
        return f"{self.text}:"


def wordnet_pairs(folder: str) -> list[Pair]:
    """The words of each of WordNet's 117,659 synsets with their part of speech, and its gloss without examples.

    Raises:
        FileNotFoundError: the folder does not hold the data files.
    """
    pairs = []
    for part in ("noun", "verb", "adj", "adv"):
        file = Path(folder, f"data.{part}")
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}: {HOW_TO_INSTALL}")
        pairs += list(_synsets(file))
    return pairs


def _synsets(file: Path) -> Iterator[Pair]:
    """A line is `offset file kind count word id word id ... | gloss; "example"`, the count hexadecimal; see wndb(5)."""
    for line in file.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):  # the licence
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        words = [fields[4 + 2 * number].replace("_", " ") for number in range(int(fields[3], 16))]
        yield Pair(f"{', '.join(words)} ({PARTS_OF_SPEECH[fields[2]]})", gloss.split('; "')[0].strip())


def csv_pairs(file: str, text_column: str, target_column: str) -> list[Pair]:
    """The rows of a csv file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or has empty entries.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"--train_file {file}: there is no such file")
    table = pd.read_csv(file)
    missing = [name for name in (text_column, target_column) if name not in table.columns]
    if missing:
        raise ValueError(
            f"{file} has no column {missing}; it has {list(table.columns)}: choose with --text_column and "
            "--target_column"
        )
    table = table[[text_column, target_column]]
    if empty := int(table.isna().any(axis=1).sum()):
        raise ValueError(f"{empty} rows of {file} have an empty text or target; fill or drop them")
    return [Pair(str(text), str(target)) for text, target in table.itertuples(index=False)]


def split_pairs(pairs: Sequence[Pair], num_train: int, num_heldout: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training pairs, and one pair for each of some other texts: no text is in both parts.

    Raises:
        ValueError: there are too few texts.
    """
    texts = sorted({pair.text for pair in pairs})
    if len(texts) <= num_heldout:
        raise ValueError(
            f"there are {len(texts)} different texts; {num_heldout} to hold out and some to train on are needed: "
            "lower --num_heldout_samples"
        )
    chosen = set(random.Random(seed).sample(texts, num_heldout))
    heldout = {pair.text: pair for pair in pairs if pair.text in chosen}
    rest = [pair for pair in pairs if pair.text not in chosen]
    return random.Random(seed).sample(rest, min(num_train, len(rest))), list(heldout.values())


def encode(pairs: Sequence[Pair], tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """Token ids of prompt, target and end of text, cut off; labels for the target and the end alone."""
    samples = []
    for pair in pairs:
        prompt = tokenizer(pair.prompt)["input_ids"][: max_length // 2]
        target = tokenizer(f" {pair.target}", add_special_tokens=False)["input_ids"]
        ids = [*prompt, *target, tokenizer.eos_token_id][:max_length]
        labels = [IGNORED] * len(prompt) + ids[len(prompt) :]
        samples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return samples


def made_up_pairs(count: int = 300, seed: int = 0) -> list[Pair]:
    """Numbered things and sentences about them; nothing has to be installed for them."""
    generator = random.Random(seed)
    things, colours = "fox hen cat owl bee cow".split(), "red blue green grey".split()
    drawn = [(generator.choice(colours), generator.choice(things), number) for number in range(count)]
    return [Pair(f"{colour} {thing} {number}", f"a {thing} that is {colour}") for colour, thing, number in drawn]
