"""What a wrong input gets: an error of the right type whose text says what came, what is needed and what to do."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from collapse import (
    ClassStatistics,
    HeadObserver,
    NeuralCollapseCallback,
    NormalizedClassifier,
    SimplexClassifier,
    SphereRetractionCallback,
    attainable_loss,
    find_head,
    layerwise_collapse,
    load_normalized_classifier,
    nc1,
    nc3,
    nci_score,
    neural_collapse,
    next_token_pairs,
    normalize_classifier_,
    scale_for_loss,
    simplex_vectors,
)
from collapse.losses import nonl_loss, ntce_loss, regularized_cross_entropy
from collapse.metrics import class_distance_normalized_variance, nearest_center_agreement
from collapse.theory import simplex_distance, unconstrained_features
from tests.collapse.trainers import BERT, trainer

ROWS, LABELS = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])


def seen(rows=ROWS, labels=LABELS, within="full"):
    statistics = ClassStatistics(2, 3, within=within)
    statistics.update(rows, labels)
    return statistics


def separated():
    return seen(torch.randn(4, 3))


def twice():
    model = BERT.build()
    normalize_classifier_(model)
    normalize_classifier_(model)


def targeted():
    return normalize_classifier_(get_peft_model(BERT.build(), LoraConfig(r=2, target_modules=["classifier"])))


def quantized():
    model = BERT.build()
    model.classifier.weight = nn.Parameter(torch.zeros(3, 8, dtype=torch.uint8), requires_grad=False)
    normalize_classifier_(model)


def ambiguous():
    model = BERT.build()
    model.second = nn.Linear(8, 3)
    find_head(model)


def headless():
    model = BERT.build()
    model.classifier = nn.Identity()
    model.config.num_labels = 77
    find_head(model)


def saved(folder, **settings):
    model = BERT.build()
    if settings:
        model.config.normalized_classifier = {"temperature": 2.0}
    model.save_pretrained(folder)
    if settings:
        config = (folder / "config.json").read_text().replace("BertForSequence", "MyOwnForSequence")
        (folder / "config.json").write_text(config)
    load_normalized_classifier(str(folder))


BAD = [
    ("no classes", lambda _: ClassStatistics(0, 3), ValueError, "`num_classes` must be a positive integer, got 0"),
    ("true features", lambda _: ClassStatistics(2, True), ValueError, "`num_features` must be a positive.*got True"),
    ("within", lambda _: ClassStatistics(2, 3, within="none"), ValueError, "`within` must be 'full'.*got 'none'"),
    ("regression", lambda _: seen(labels=LABELS.float()), TypeError,
     "integer class indices, got torch.float32; regression and multi-label"),
    ("bool labels", lambda _: seen(labels=LABELS.bool()), TypeError, "integer class indices, got torch.bool"),
    ("columns", lambda _: seen(torch.ones(4, 2)), ValueError,
     r"must have 3 columns, got shape \(4, 2\); pass what enters the classifier"),
    ("label count", lambda _: seen(labels=LABELS[:3]), ValueError,
     r"every feature needs one label: .* want labels of shape \(4,\), got \(3,\)"),
    ("label range", lambda _: seen(labels=LABELS + 1), ValueError,
     r"must lie in \[0, 2\), got 1 to 2; is `num_classes`"),
    ("negative label", lambda _: seen(labels=-LABELS), ValueError, "got -1 to 0; is `num_classes` right, and `ignore"),
    ("nan", lambda _: seen(ROWS / 0), ValueError, "the features hold NaN or inf; look at the batch"),
    ("merge", lambda _: seen().merge(seen(within="trace")), ValueError,
     r"statistics of one kind can be merged.*'full'"),
    ("one class seen", lambda _: neural_collapse(seen(labels=0 * LABELS)), ValueError,
     "of the 2 classes need samples, got 1"),
    ("trace nc1", lambda _: nc1(seen(within="trace")), ValueError, "NC1 needs the full within-class scatter; make the"),
    ("same means", lambda _: nc1(seen()), ValueError, "all class means coincide, so NC1 is not defined"),
    ("global mean", lambda _: nc1(seen(), global_mean="all"), ValueError, "must be 'samples' or 'classes', got 'all'"),
    ("weight shape", lambda _: nc3(separated(), torch.ones(3, 2)), ValueError,
     r"one row for each class, \(2, 3\), got \(3"),
    ("no pairs", lambda _: class_distance_normalized_variance(seen(), 1), ValueError,
     "must be at least 2, to have a pair"),
    ("nc4 rows", lambda _: nearest_center_agreement(ROWS, LABELS[:2], seen()), ValueError,
     "NC4 needs rows, and one pred"),
    ("one row", lambda _: simplex_distance(torch.ones(1, 3)), ValueError,
     r"a simplex needs at least two rows.*shape \(1, 3\)"),
    ("pair", lambda _: simplex_distance(ROWS, ROWS[:3]), ValueError, r"the same columns, got \(4, 3\) and \(3, 3\)"),
    ("zero weight", lambda _: simplex_distance(0 * ROWS), ValueError,
     "the product of the two matrices has norm 0.0; a direction needs finite, non-zero"),
    ("in features", lambda _: NormalizedClassifier(0, 3), ValueError,
     "`in_features` must be a positive integer, got 0"),
    ("one label", lambda _: NormalizedClassifier(4, 1, 2.0), ValueError, "at least 2, got 1; one class is regression"),
    ("tau", lambda _: NormalizedClassifier(4, 3, -1.0), ValueError,
     "`scale` must be positive.*got -1.0; 3.53 suits 3"),
    ("margin", lambda _: NormalizedClassifier(4, 3, margin=1.0), ValueError,
     r"subtracted from a cosine and must lie in \[0, 1\), got 1"),
    ("angle", lambda _: NormalizedClassifier(4, 3, margin=1.6, margin_kind="arcface"), ValueError,
     r"`margin` is added to an angle and must lie in \[0, pi / 2\), got 1.6"),
    ("margin kind", lambda _: normalize_classifier_(BERT.build(), margin=0.1, margin_kind="sphereface"), ValueError,
     r"`margin_kind` must be one of \['cosface', 'arcface'\], got 'sphereface'"),
    ("margin alone", lambda _: normalize_classifier_(nn.Sequential(nn.Linear(4, 3)), 2.0, head="0", margin=0.1),
     ValueError, "Sequential is not a transformers model that computes one; put `NormalizedClassifier"),
    ("simplex classes", lambda _: simplex_vectors(1, 3), ValueError, "`num_classes` of a simplex .* at least 2, got 1"),
    ("simplex features", lambda _: SimplexClassifier(3, 5), ValueError,
     "a simplex of 5 classes needs at least 4 features, got 3; widen"),
    ("tokens", lambda _: next_token_pairs(ROWS, LABELS), ValueError,
     r"next tokens need features \(batch, tokens, d\).*got \(4, 3\) and \(4,\); pass whole sequences"),
    ("nci norm", lambda _: nci_score(ROWS, ROWS, ROWS, norm_weight=-1.0), ValueError,
     "`norm_weight` must be a number of at least 0, got -1.0"),
    ("nci shapes", lambda _: nci_score(ROWS, ROWS, torch.ones(2, 4)), ValueError,
     r"weight \(2, 4\) and bias \(2,\) do not fit; they are \(n, d\), d, "),
    ("nci nan", lambda _: nci_score(ROWS / 0, ROWS, ROWS), ValueError, "`features` must be a finite matrix of numbers"),
    ("nci labels", lambda _: nci_score(ROWS, LABELS, ROWS), ValueError, "`training` must be a finite.*got torch.int64"),
    ("nci nothing", lambda _: nci_score(ROWS, ClassStatistics(2, 3), ROWS), ValueError,
     "the statistics of the training data hold no samples"),
    ("floor", lambda _: scale_for_loss(10, 3.0), ValueError,
     r"`loss` must lie between 0 and log\(10\) = 2.3, the loss of guessing, got 3.0"),
    ("floor classes", lambda _: attainable_loss(1, 1.0), ValueError,
     "`num_classes` must be an integer of at least 2, got 1"),
    ("floor tau", lambda _: attainable_loss(3, 0.0), ValueError,
     "`scale` must be a positive, finite number, got 0.0"),
    ("twice", lambda _: twice(), ValueError, "'classifier' is already normalized; fill its `base_temperature`"),
    ("quantized", lambda _: quantized(), ValueError, "with torch.uint8 weights; keep the head out of quantization"),
    ("adapted head", lambda _: targeted(), ValueError, "is itself the target of an adapter; leave it out"),
    ("two heads", lambda _: ambiguous(), ValueError,
     r"has 2 layers that could be its classifier: \['classifier', 'second"),
    ("no head", lambda _: headless(), ValueError, "has 0 layers that could be its classifier"),
    ("absent head", lambda _: find_head(BERT.build(), "fc"), ValueError,
     "no linear layer called 'fc'; its last ones are"),
    ("no config", lambda _: find_head(nn.Linear(2, 2)), ValueError,
     "Linear has no `config.num_labels` that identifies its classifier"),
    ("regressor", lambda _: normalize_classifier_(BERT.build(num_labels=1)), ValueError,
     "a regression model has no class.*got num_labels=1 and problem_type=None; set `num_labels`"),
    ("multi-label", lambda _: normalize_classifier_(BERT.build(problem_type="multi_label_classification")), ValueError,
     "cosines cannot say how likely each of several labels is"),
    ("plain checkpoint", lambda folder: saved(folder), ValueError,
     "was not saved with a normalized head.*load it with `from_pretrained` and call"),
    ("strange class", lambda folder: saved(folder, normalized=True), ValueError,
     "'MyOwnForSequenceClassification' of .* is not a model class of transformers"),
    ("nothing to retract", lambda _: SphereRetractionCallback().on_train_begin(None, None, None, model=nn.Linear(2, 2)),
     ValueError, "there is no NormalizedClassifier to keep on the sphere"),
    ("no trainer", lambda _: NeuralCollapseCallback(BERT.build()), TypeError, "logs through a Trainer, got a BertFor"),
    ("no measure", lambda folder: NeuralCollapseCallback(trainer(folder), piggyback=False), ValueError,
     "nothing to measure"),
    ("center samples", lambda _: HeadObserver(BERT.build(), center_samples=-1), ValueError,
     "rows to keep for NC4.*got -1"),
    ("unknown layer", lambda _: layerwise_collapse(nn.Linear(2, 2), [], ["a"], 2), ValueError,
     r"must name submodules of the model.*unknown: \['a'\]"),
    ("no batches", lambda _: layerwise_collapse(nn.Sequential(nn.ReLU()), [], ["0"], 2), ValueError,
     "these layers gave no output: .*; were there batches, and does the model"),
    ("strength", lambda _: regularized_cross_entropy(ROWS, LABELS, ROWS, ROWS, -1.0), ValueError,
     "must not be negative"),
    ("one sample", lambda _: ntce_loss(ROWS[:1], LABELS[:1], ROWS, 1.0), ValueError,
     "a loss over the batch needs at least"),
    ("one class", lambda _: nonl_loss(ROWS, 0 * LABELS, ROWS, 1.0), ValueError,
     "NONL contrasts classes: the batch needs"),
    ("no dimension", lambda _: unconstrained_features(0, 3, 1.0), ValueError,
     "unconstrained features need dimension, per"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call,error,text", [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_a_wrong_input_is_refused_with_a_helpful_text(call, error, text: str, tmp_path) -> None:
    with pytest.raises(error, match=text):
        call(tmp_path)


def test_the_table_is_long_enough_and_its_names_are_unique() -> None:
    assert len(BAD) >= 15 and len({row[0] for row in BAD}) == len(BAD)
