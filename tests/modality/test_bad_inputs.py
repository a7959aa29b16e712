"""What a wrong input gets: an error of the right type whose text says what came, what is needed and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import default_data_collator

from modality import (
    ConstantSchedule,
    ContrastiveModel,
    CosineAlternation,
    DualEncoder,
    LinearSchedule,
    ModalityGapCallback,
    ModalitySwapCollator,
    PairStatistics,
    PiecewiseSchedule,
    Temperature,
    TemperatureScheduleCallback,
    contrastive_loss,
    encode_in_chunks,
    find_temperature,
    modality_gap,
    recall_at_k,
    reparameterize_logit_scale_,
    sigmoid_loss,
    swap_features,
    temperature_parameter_groups,
)
from modality.losses import ContrastiveObjective, duplicate_mask, gather_features
from modality.metrics import linear_separability, margin, mean_shift, uniformity
from modality.theory import (
    inverse_temperature_on_flow,
    linear_schedule_rate,
    scheduled_flow,
    synthetic_training,
    temperature_flow,
)
from tests.modality.trainers import Convolution, Pairs, bert, clip, trainer

X = torch.eye(3)
INTEGERS = torch.arange(3)


def collator(**settings):
    return ModalitySwapCollator(default_data_collator, **({"mode": "hard", "probability": 0.1} | settings))


def dual(**settings):
    towers = {"x_tower": nn.Identity(), "y_tower": nn.Identity(), "x_width": 3, "y_width": 3, "width": 3}
    return DualEncoder(**(towers | settings))


def updated(x, y=X, width=3):
    statistics = PairStatistics(width)
    statistics.update(x, y)
    return statistics


def tau_itself():
    model = nn.Linear(2, 2)
    model.temperature = nn.Parameter(torch.tensor(0.07))
    return model


def two_temperatures():
    return nn.ModuleList([Temperature(), Temperature()])


def loaded(folder, model, **parts):
    model.save_pretrained(folder)
    return DualEncoder.from_pretrained(folder, **parts)


def trained(folder, schedule=None, model=None):
    model = model or ContrastiveModel(clip())
    trainer(folder, model, callbacks=[TemperatureScheduleCallback(schedule or LinearSchedule())]).train()


BAD = [
    ("tokens", lambda _: contrastive_loss(X[None], X[None], 1.0), ValueError,
     r"\(n, d\) matrices of the same shape, got \(1, 3, 3\)"),
    ("integers", lambda _: contrastive_loss(INTEGERS, X, 1.0), TypeError,
     r"`x` must be a floating-point.*torch.int64; convert it with `.float\(\)`"),
    ("list", lambda _: sigmoid_loss(X, [1.0], 1.0, 0.0), TypeError, "`y` must be a floating-point tensor.*got list"),
    ("uneven", lambda _: mean_shift(X, X[:2]), ValueError, r"same shape, got \(3, 3\) and \(2, 3\); pool tokens"),
    ("no rows", lambda _: contrastive_loss(X[:0], X[:0], 1.0), ValueError, r"got \(0, 3\) and \(0, 3\)"),
    ("negative scale", lambda _: contrastive_loss(X, X, -1.0), ValueError, "must be positive and finite, got -1.0"),
    ("scale shape", lambda _: contrastive_loss(X, X, X[0]), ValueError, r"one number for all pairs, got shape \(3,\)"),
    ("smoothing", lambda _: contrastive_loss(X, X, 1.0, label_smoothing=1.0), ValueError,
     r"`label_smoothing` must lie in \[0, 1\), got 1.0"),
    ("duplicates", lambda _: contrastive_loss(X, X, 1.0, duplicates="drop"), ValueError,
     "must be 'share' or 'exclude', got 'drop'"),
    ("mask type", lambda _: contrastive_loss(X, X, 1.0, positives=X), ValueError,
     r"`positives` must be a boolean \(3, 3\) matrix, got torch.float32.*see `duplicate_mask`"),
    ("mask and ids", lambda _: contrastive_loss(X, X, 1.0, positives=X > 0, ids=INTEGERS), ValueError,
     "given by `positives` or by `ids`, and over ranks"),
    ("mask over ranks", lambda _: sigmoid_loss(X, X, 1.0, 0.0, positives=X > 0, gather=True), ValueError,
     "over ranks .`gather=True`. by `ids`"),
    ("ids", lambda _: contrastive_loss(X, X, 1.0, ids=X[0]), ValueError, "`ids` must be 3 integers, one for each pair"),
    ("block", lambda _: contrastive_loss(X, X, 1.0, block_size=0), ValueError,
     "`block_size` must be a positive number of rows, or None for all at once, got 0"),
    ("mask of matrix", lambda _: duplicate_mask(X), ValueError, r"one integer for each pair, got torch.float32"),
    ("scalar", lambda _: gather_features(torch.tensor(1.0)), ValueError, "only rows can be gathered, got a scalar"),
    ("chunk", lambda _: encode_in_chunks(nn.Identity(), X, True), ValueError,
     "`chunk_size` must be a positive number of rows, or None, got True"),
    ("chunk rows", lambda _: encode_in_chunks(nn.Identity(), [X, X[:2]], 1), ValueError,
     r"all of them need the same number of rows; got \[2, 3\]"),
    ("chunk function", lambda _: encode_in_chunks(lambda x: x, X, 1), ValueError,
     "pass the parameters that the function uses as `parameters=`"),
    ("tau", lambda _: Temperature(0.0), ValueError, "temperature must be positive and finite, got 0.0; 0.07 is CLIP's"),
    ("set tau", lambda _: Temperature().set_tau(float("inf")), ValueError, "positive and finite, got inf"),
    ("set logit_scale", lambda _: find_temperature(clip()).set_tau(0.0), ValueError, "positive and finite, got 0.0"),
    ("mode", lambda _: Temperature(mode="cosine"), ValueError, "`mode` must be one of .*'softplus'.*got 'cosine'"),
    ("scale", lambda _: Temperature(mode="exp", scale=0), ValueError, "`scale` must be a positive number, got 0; the"),
    ("bound", lambda _: Temperature(0.07, "exp", maximum_inverse=0.0), ValueError,
     "`maximum_inverse` must be positive, or None for no bound, got 0.0"),
    ("above bound", lambda _: Temperature(0.005, "learnable"), ValueError,
     "an initial temperature of 0.005 is an inverse of 200, above `maximum_inverse=100.0`; raise one of the two"),
    ("groups", lambda _: temperature_parameter_groups(nn.Linear(2, 2), 1.0), ValueError,
     "Linear learns no temperature that could have its own learning rate"),
    ("group rate", lambda _: temperature_parameter_groups(Temperature(mode="exp"), -1.0), ValueError,
     "`lr` must be a number of at least 0, got -1.0"),
    ("no temperature", lambda _: find_temperature(nn.Linear(2, 2)), ValueError, "Linear has 0 temperatures to set"),
    ("two temperatures", lambda _: find_temperature(two_temperatures()), ValueError,
     r"has 2 temperatures to set: \['0', '1'\].*name one with `parameter=`"),
    ("reparameterized", lambda _: find_temperature(reparameterize_logit_scale_(clip(), "softplus")), ValueError,
     r"reparameterized and left alone: \['parametrizations.logit_scale.original'\]"),
    ("reparameterize mode", lambda _: reparameterize_logit_scale_(clip(), "learnable"), ValueError,
     "`mode` must be 'softplus' or 'exp', got 'learnable'; a logit_scale is learned as exp"),
    ("reparameterize ours", lambda _: reparameterize_logit_scale_(nn.ModuleList([Temperature()]), "exp"), ValueError,
     "is a Temperature; make it with mode='exp' instead"),
    ("schedule tau", lambda _: ConstantSchedule(-0.1), ValueError, "`tau` of a temperature schedule must be a pos"),
    ("schedule start", lambda _: LinearSchedule(start=0), ValueError, "`start` of a temperature schedule.*got 0"),
    ("periods", lambda _: CosineAlternation(0.1, 0.2, periods=0), ValueError, "`periods` of a temperature schedule"),
    ("points", lambda _: PiecewiseSchedule(((0.5, 0.1), (0.2, 0.1))), ValueError,
     r"rising progress in \[0, 1\], got progress \[0.5, 0.2\]; for example"),
    ("not a schedule", lambda _: TemperatureScheduleCallback(0.05), TypeError,
     "a schedule must be a function of the progress of training, got float"),
    ("schedule value", lambda folder: trained(folder, lambda progress: -progress), ValueError,
     "returned a temperature of -0.0 at progress 0.0; it must be positive"),
    ("nothing to drive", lambda folder: trained(folder, model=two_temperatures()), ValueError, "has 2 temperatures"),
    ("swap mode", lambda _: swap_features(X, X, "columns"), ValueError, "'hard', 'soft' or 'row', got 'columns'"),
    ("collator", lambda _: ModalitySwapCollator(None, "hard", 0.1), TypeError,
     "must be a function of a list of samples, got NoneType"),
    ("collator mode", lambda _: collator(mode="none"), ValueError, "must be 'hard', 'soft' or 'row', got 'none'"),
    ("probability", lambda _: collator(probability=1.5), ValueError, r"must lie in \[0, 1\], got 1.5; the paper uses"),
    ("per", lambda _: collator(per="epoch"), ValueError, "`per` must be 'step' or 'sample', got 'epoch'"),
    ("seed", lambda _: collator(seed=-1), ValueError, "`seed` must be an integer of at least 0, got -1"),
    ("twice", lambda _: ModalitySwapCollator(collator(), "hard", 0.1)([{"x": 1}]), ValueError,
     "already has a 'modality_swap'; wrap the collator only once"),
    ("batch of tuples", lambda _: ModalitySwapCollator(tuple, "hard", 0.1)([1]), TypeError,
     "batches that are mappings.*the collator returned a tuple"),
    ("strange rule", lambda _: ContrastiveObjective()(X, X, 1.0, modality_swap=INTEGERS), ValueError,
     r"what `ModalitySwapCollator` puts into a batch, integers of shape \(n, 5\), got torch.int64 of shape \(3,\)"),
    ("loss", lambda _: dual(loss="triplet"), ValueError, "`loss` must be 'contrastive' or 'sigmoid', got 'triplet'"),
    ("sigmoid duplicates", lambda _: dual(loss="sigmoid", duplicates="drop"), ValueError, "or .exclude., got .drop."),
    ("reparameterize tau", lambda _: reparameterize_logit_scale_(tau_itself(), "exp"), ValueError,
     "'temperature' of Linear is tau itself and not a logit_scale"),
    ("sigmoid smoothing", lambda _: dual(loss="sigmoid", label_smoothing=0.1), ValueError, "no label smoothing; leave"),
    ("projection", lambda _: dual(projection="deep"), ValueError, "must be 'linear', 'mlp' or 'none', got 'deep'"),
    ("widths", lambda _: dual(projection="none", x_width=4), ValueError,
     "without a projection a tower of 4 features cannot reach a width of 3"),
    ("pooling", lambda _: dual(x_pooling="max")(X, X), ValueError, "`pooling` must be one of .* got 'max'"),
    ("five axes", lambda _: dual()(X[None, None, None], X), ValueError,
     r"vectors, tokens or feature maps; pooling='mean' found shape \(1, 1, 1, 3, 3\) in Tensor"),
    ("no pooler", lambda _: dual(y_tower=bert(), y_width=8, y_pooling="pooler")(X, {"input_ids": Pairs(3).tokens}),
     ValueError, "pooling='pooler' found shape None in .*wrap the tower in a module"),
    ("checkpointing", lambda _: dual().gradient_checkpointing_enable(), ValueError,
     "gradient checkpointing is not available in Identity, Identity; leave it out, or pass `chunk_size=`"),
    ("no logit_scale", lambda _: ContrastiveModel(bert()), ValueError, "BertModel has no `logit_scale`; pass `temp"),
    ("one modality", lambda _: ContrastiveModel(bert(), temperature=Temperature())(Pairs(3).tokens), ValueError,
     "without embeddings of two modalities.*a DualEncoder takes any towers"),
    ("tower not given", lambda folder: loaded(folder, dual(x_tower=Convolution())), ValueError,
     r"part 'x_tower' is a Convolution, which cannot be rebuilt.*pass one yourself: from_pretrained\(..., x_tower=m"),
    ("unknown part", lambda folder: loaded(folder, dual(), tower=nn.Identity()), ValueError,
     r"DualEncoder has no part called \['tower'\]; it has \['x_tower', 'y_tower'\]"),
    ("other class", lambda folder: loaded(folder, ContrastiveModel(clip())), ValueError,
     "holds ContrastiveModel, not a DualEncoder; a checkpoint of a Trainer holds only weights"),
    ("empty folder", lambda folder: ContrastiveModel.from_pretrained(folder), ValueError,
     "holds no saved model of this package, not a ContrastiveModel"),
    ("statistics width", lambda _: PairStatistics(0), ValueError, "`num_features` must be a positive integer, got 0"),
    ("other width", lambda _: updated(X, width=4), ValueError, "these are statistics of 4 features, got rows of 3"),
    ("nan", lambda _: updated(X / 0), ValueError, "the features hold NaN or inf; look at the batch"),
    ("merge", lambda _: updated(X).merge(PairStatistics(3, normalize=False)), ValueError,
     "only statistics of one kind can be merged"),
    ("one pair", lambda _: modality_gap(updated(X[:1], X[:1])), ValueError, "at least two pairs, got 1; call `update`"),
    ("no pair", lambda _: uniformity(PairStatistics(3)), ValueError, "the metrics need at least two pairs, got 0"),
    ("separability", lambda _: linear_separability(X, X, PairStatistics(3)), ValueError, "at least two pairs, got 0"),
    ("k", lambda _: recall_at_k(X, X, ks=(0,)), ValueError, r"`ks` must be a list of positive integers.* got \(0,\)"),
    ("recall block", lambda _: recall_at_k(X, X, block_size=0), ValueError, "must be a positive number of rows, got 0"),
    ("recall nan", lambda _: recall_at_k(X / 0, X), ValueError, "features with NaN or inf have no nearest neighbors"),
    ("margin nan", lambda _: margin(X, X / 0), ValueError, "features with NaN or inf have no nearest neighbors"),
    ("orphans", lambda _: recall_at_k(X, X, x_ids=INTEGERS, y_ids=INTEGERS + 1), ValueError,
     "1 queries x_to_y have no row with their id in the pool"),
    ("recall widths", lambda _: recall_at_k(X, X[:, :2], x_ids=INTEGERS, y_ids=INTEGERS), ValueError,
     r"must be floating-point matrices of one width, with rows, got shapes \(3, 3\) and \(3, 2\)"),
    ("recall ids", lambda _: margin(X, X, ids=INTEGERS[:2]), ValueError, "3 rows need as many integer ids, got tor"),
    ("flow mode", lambda _: temperature_flow([1.0], "sqrt"), ValueError, "must be one of .*'linear'.* got 'sqrt'"),
    ("flow scale", lambda _: temperature_flow([1.0], scale=0.0), ValueError, "`scale` must be positive, got 0.0"),
    ("flow times", lambda _: temperature_flow([2.0, 1.0]), ValueError,
     r"must increase and be at least 0, got \[2.0, 1.0\]"),
    ("flow gap", lambda _: temperature_flow([1.0], gap=1.0), ValueError, r"gamma, must lie in \(0, 1\), got 1.0"),
    ("flow beta", lambda _: temperature_flow([1.0], inverse_temperature=-1), ValueError,
     "`inverse_temperature` must be positive and finite, got -1"),
    ("flow schedule", lambda _: scheduled_flow([2.0], ConstantSchedule(0.1), 1.0), ValueError,
     "time 2.0 is after the end of the schedule, whose duration is 1.0"),
    ("lemma", lambda _: inverse_temperature_on_flow(0.0, start_gap=0.5, start_inverse_temperature=5.0), ValueError,
     "half the gap, gamma"),
    ("flow steps", lambda _: temperature_flow([1.0], steps_per_decade=0), ValueError,
     "`steps_per_decade` must be at least 1, got 0"),
    ("flow temperature", lambda _: scheduled_flow([1.0], lambda progress: 0.0, 1.0), ValueError,
     "the schedule returned a temperature of 0.0 at progress 0.0"),
    ("rate", lambda _: linear_schedule_rate(0.0, 1.0), ValueError, "`start` must be positive and finite, got 0.0"),
    ("synthetic", lambda _: synthetic_training(num_pairs=0), ValueError, 
     "must be at least 1, `duration` positive; got 0, 3, 1000, 40 and 1000.0"),
    ("synthetic schedule", lambda _: synthetic_training(mode="scheduled"), ValueError,
     "pass a schedule if and only if mode='scheduled'; got mode='scheduled'"),
    ("no trainer", lambda _: ModalityGapCallback(clip()), TypeError, "logs through a Trainer, got a CLIPModel; crea"),
    ("nothing to measure", lambda folder: ModalityGapCallback(trainer(folder, clip()), piggyback=False), ValueError,
     "without `loaders` and with `piggyback=False` there is nothing to measure; pass `loaders`"),
    ("pool", lambda folder: ModalityGapCallback(trainer(folder, clip()), pool_size=-1), ValueError,
     "`pool_size` must be a number of pairs, or 0 for no retrieval, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_wrong_input_is_told_what_came_and_what_to_do(call, kind, text, tmp_path) -> None:
    with pytest.raises(kind, match=text):
        call(tmp_path)
