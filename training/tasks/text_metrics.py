"""Metrics of generated texts: ROUGE-L and BLEU where a library for them is installed, exact match in any case."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["TEXT_METRICS", "exact_match", "text_scorer"]

TEXT_METRICS = ("rougeL", "bleu", "exact_match")

TextScore = Callable[[Sequence[str], Sequence[str]], float]
_HOW = {"rougeL": "pip install rouge-score", "bleu": "pip install sacrebleu"}


def text_scorer(source: str = "local") -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
    """Return a function of generated and reference texts that gives every metric there is a definition for.

    - `rougeL`: F-measure of the longest common subsequence of words, mean over the texts, 0 to 1 (Lin, 2004);
    - `bleu`: of the corpus, 0 to 100, one reference each (Papineni et al., 2002, as sacreBLEU tokenizes);
    - `exact_match`: share of texts that equal the reference, but for spaces at the ends.

    What is missing is left out, and said once, here.

    Args:
        source: "local" takes the libraries `rouge_score` and `sacrebleu` themselves; "evaluate" the scripts of that
            library where they can be loaded.

    >>> text_scorer()(["a dull film"], ["a dull film "])["exact_match"]
    1.0
    """
    functions: dict[str, TextScore] = {}
    missing = []
    for name, find in (("rougeL", _rouge), ("bleu", _bleu)):
        score = find(source)
        if score is None:
            missing.append(f"{name} ({_HOW[name]})")
        else:
            functions[name] = score
    if missing:
        warnings.warn(f"generated texts are scored without {' and '.join(missing)}", stacklevel=2)
    functions["exact_match"] = exact_match
    return lambda predictions, references: {
        name: function(predictions, references) for name, function in functions.items()
    }


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of texts that equal the reference.

    >>> exact_match(["one", "two "], ["one", "three"])
    0.5
    """
    pairs = zip(predictions, references, strict=True)
    return _mean([float(prediction.strip() == reference.strip()) for prediction, reference in pairs])


def _rouge(source: str) -> TextScore | None:
    metric = _script("rouge") if source == "evaluate" else None
    if metric is not None:
        settings = {"rouge_types": ["rougeL"], "use_aggregator": False}  # the aggregator's mean is a bootstrapped one
        return lambda predictions, references: _mean(
            metric.compute(predictions=predictions, references=references, **settings)["rougeL"]
        )
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        return None
    scorer = RougeScorer(["rougeL"])
    return lambda predictions, references: _mean(
        [scorer.score(*pair)["rougeL"].fmeasure for pair in zip(references, predictions, strict=True)]
    )


def _bleu(source: str) -> TextScore | None:
    metric = _script("sacrebleu") if source == "evaluate" else None
    if metric is not None:
        return lambda predictions, references: float(
            metric.compute(predictions=predictions, references=[[reference] for reference in references])["score"]
        )
    try:
        import sacrebleu
    except ImportError:
        return None
    return lambda predictions, references: float(sacrebleu.corpus_bleu(list(predictions), [list(references)]).score)


def _script(name: str) -> Any:
    """Load the metric of `evaluate`, a script on the Hub or in a local folder; None if that fails."""
    try:
        import evaluate

        return evaluate.load(name)
    except Exception as error:  # not installed, offline, or what the script needs is missing: many kinds
        warnings.warn(f"evaluate cannot load {name!r} ({type(error).__name__}); its library is used", stacklevel=4)
        return None


def _mean(values: Sequence[float]) -> float:
    return float(sum(values)) / max(len(values), 1)
