"""Text generation with a pretrained language model, from a few examples.

`e2e`: E2E NLG, a sentence about a restaurant from its facts; what the model writes is scored with BLEU and ROUGE-L.
`glosses`: WordNet, the gloss of a word; only its loss is measured, since a gloss may be right in many words.

Both are trained and scored on the tokens after the prompt. The score is minus the mean loss of a token, so that higher
is better, as everywhere in the study.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.few_shot.tasks.base import Parts, Task, TaskSettings, data_folder, draw, split_by_seed
from benchmarks.few_shot.tasks.language import (
    IGNORED,
    WORDNET,
    LanguageModel,
    Pair,
    encode,
    generate,
    load_tokenizer,
    unpack_smollm2,
    wordnet_pairs,
)

CACHE = Path("runs/smollm2")
BATCH = 16
WRITTEN, NEW_TOKENS = 24, 48


class WritingTask(Task):
    """Pairs of a prompt and what follows it."""

    metric = "minus the loss of a token"
    likelihood = True
    adapted_layers = r".*\.(q|k|v|o|gate|up|down)_proj"
    word_embedding = r".*embed_tokens"

    def __init__(self, settings: TaskSettings, pairs: list[Pair]) -> None:
        super().__init__(settings)
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        unpack_smollm2(CACHE)
        self.tokenizer = load_tokenizer(CACHE)
        examples = encode(pairs, self.tokenizer, 10 * settings.max_tokens)
        short = [number for number, example in enumerate(examples) if len(example["labels"]) <= settings.max_tokens]
        self.pairs, self.examples = [pairs[i] for i in short], [examples[i] for i in short]

    def model(self, seed: int) -> LanguageModel:
        return LanguageModel(AutoModelForCausalLM.from_pretrained(str(CACHE), dtype=torch.float32))

    def loss(self, model: LanguageModel, chosen: np.ndarray, seed: int) -> Tensor:
        loss: Tensor = model([self.examples[i] for i in chosen]).loss
        return loss

    def score(self, model: LanguageModel, parts: Parts) -> dict[str, float]:
        return {name: -self.token_loss(model, part) for name, part in parts.items()}

    @torch.no_grad()
    def token_loss(self, model: LanguageModel, part: np.ndarray) -> float:
        """Compute the mean loss of a target token; equal lengths run together, so there is little padding."""
        order = sorted(part, key=lambda i: len(self.examples[i]["labels"]))
        total, tokens = 0.0, 0
        for start in range(0, len(order), BATCH):
            examples = [self.examples[i] for i in order[start : start + BATCH]]
            count = sum(label != IGNORED for example in examples for label in example["labels"][1:])
            total, tokens = total + model(examples).loss.item() * count, tokens + count
        return total / tokens


class Restaurants(WritingTask):
    """E2E NLG. Training and validation examples have different facts; the test set is the challenge's own."""

    files = ("devset.csv", "testset_w_refs.csv")

    def __init__(self, settings: TaskSettings) -> None:
        folder = data_folder("E2E_FOLDER", "E2E NLG", self.files)
        tables = [pd.read_csv(folder / file) for file in self.files]
        pairs = [Pair(str(row.mr), str(row.ref)) for table in tables for row in table.itertuples()]
        super().__init__(settings, pairs)
        tested = set(tables[1]["mr"].astype(str)) - set(tables[0]["mr"].astype(str))
        facts = np.random.default_rng(0).permutation(sorted({pair.text for pair in self.pairs} - tested))
        held_out = set(facts[: len(facts) // 4])
        parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
        for number, pair in enumerate(self.pairs):
            held = "validation" if pair.text in held_out else "train"
            parts["test" if pair.text in tested else held].append(number)
        self.parts = {name: np.array(numbers) for name, numbers in parts.items()}

    def split(self, seed: int) -> Parts:
        generator = np.random.default_rng(seed)
        return {
            "train": draw(self.parts["train"], self.settings.samples, generator),
            "validation": draw(self.parts["validation"], self.settings.validation, np.random.default_rng(0)),
            "test": draw(self.parts["test"], self.settings.test, generator),
        }

    def texts_written(self, model: LanguageModel, seed: int) -> dict[str, float]:
        """Score greedy texts for facts of the test set against one reference each: BLEU and ROUGE-L, in points."""
        chosen = [self.pairs[i] for i in self.split(seed)["test"]]
        pairs = list({pair.text: pair for pair in chosen}.values())[:WRITTEN]
        return text_scores(generate(model.encoder, self.tokenizer, pairs, NEW_TOKENS), [pair.target for pair in pairs])


def text_scores(texts: list[str], references: list[str]) -> dict[str, float]:
    """Compute BLEU of the corpus, as sacreBLEU tokenizes, and the mean F-measure of ROUGE-L, both from 0 to 100."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    shares = [scorer.score(*pair)["rougeL"].fmeasure for pair in zip(references, texts, strict=True)]
    bleu = float(sacrebleu.corpus_bleu(texts, [references]).score)
    return {"BLEU": round(bleu, 2), "ROUGE-L": round(100 * fmean(shares), 2)}


class Glosses(WritingTask):
    """WordNet's words and their glosses."""

    def __init__(self, settings: TaskSettings) -> None:
        pairs = wordnet_pairs(data_folder("WORDNET_FOLDER", "WordNet", WORDNET))
        super().__init__(settings, [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:5000]])

    def split(self, seed: int) -> Parts:
        return split_by_seed(len(self.pairs), self.settings, seed)
