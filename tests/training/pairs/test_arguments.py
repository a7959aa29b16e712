"""What cannot work is refused before anything is trained, with exit status 2 and a way out."""

from __future__ import annotations

import json
import re

import pytest

from tests.training import tiny
from training.cli import main
from training.commands.contrastive import refuse_sharded_weights
from training.errors import RunError, UsageError
from training.pairs import load_contrastive
from training.reading.pictures import decode


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image_column", "photo"], r"no column \['photo'\] in .*, only \['image', 'text'\]: choose with"),
        (["--text_column", "caption"], r"no column \['caption'\]"),
        (["--second_text_column", "text", "--text_model", "x", "--freeze_image"], "pairs of texts need --text_model"),
        (["--label_column", "kind"], r"no column \['kind'\]"),
        (["--max_length", "1"], "--max_length got 1; a text needs at least 2 tokens"),
        (["--max_length", "200"], "--max_length got 200; .* takes at most 64 tokens"),
        (["--loss", "triplet"], "--loss got 'triplet'; choose one of: contrastive, sigmoid"),
        (
            ["--loss", "sigmoid", "--label_smoothing", "0.1"],
            "the contrastive model cannot be set up: the sigmoid loss has no label smoothing",
        ),
        (
            ["--label_smoothing_factor", "0.1"],
            "--label_smoothing_factor got 0.1, but pairs have no classes to smooth.* --label_smoothing,",
        ),
        (["--temperature", "0"], "--temperature: a temperature must be positive"),
        (["--temperature_mode", "log"], "--temperature_mode got 'log'; choose one of: learnable, softplus, exp, fixed"),
        (["--temperature_mode", "exp", "--temperature_scale", "0"], "--temperature: `scale` must be a positive"),
        (["--temperature_rate", "-1"], "--temperature_rate got -1.0; it must not be negative"),
        (["--schedule", "step"], "--schedule got 'step'; choose one of: none, constant, linear, cosine, piecewise"),
        (["--schedule", "linear", "--temperature_mode", "exp"], "exclude each other: a temperature follows a schedule"),
        (["--schedule", "linear", "--temperature", "0.1"], "--schedule linear decides the temperature"),
        (["--schedule", "linear", "--schedule_end", "0"], "--schedule linear: `end` of a temperature schedule"),
        (["--schedule", "piecewise"], "--schedule piecewise: `points` are pairs"),
        (
            ["--schedule", "piecewise", "--schedule_points", "half"],
            "--schedule_points got 'half'; a point is progress:",
        ),
        (["--swap", "all"], "--swap got 'all'; choose one of: none, hard, soft, row"),
        (["--swap", "row", "--swap_probability", "2"], r"--swap_probability: `probability` must lie in \[0, 1\]"),
        (["--swap_per", "epoch"], "--swap_per got 'epoch'"),
        (["--chunk_size", "0"], "--chunk_size got 0; it must be at least 1, or left out"),
        (["--projection", "tree"], "--projection got 'tree'; choose one of: linear, mlp, none"),
        (["--embedding_width", "0"], "--embedding_width got 0"),
        (["--freeze_image", "--freeze_text"], "leave nothing of the model to adapt"),
        (["--text_model", "x"], "--model takes images and texts; leave --text_model and --image_model out"),
        (["--second_text_column", "text"], "pairs of texts need --text_model"),
        (["--second_text_model", "x"], "are for pairs of texts: --second_text_column"),
        (["--per_device_train_batch_size", "1"], "a step of 1 pair has nothing to contrast it with"),
        (["--validation_fraction", "0.01"], "the validation data hold 1 pair, .* a larger --validation_fraction"),
    ],
)
def test_bad_arguments_end_with_status_2_and_a_way_out(words, message, clip, pictures, contrastive, tmp_path) -> None:
    status, printed = contrastive(pictures, "--model", clip, *words)
    assert status == 2 and re.search(message, printed), printed
    assert "Traceback" not in printed and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text\n", "has no rows; at least one is needed"),
        ("image,text\nimages/0-0.png,a film\n", "1 sample cannot be split into training and validation"),
        ("image,text\nimages/0-0.png,a film\nimages/0-1.png,a plot\n", "the train data hold 1 pair, with nothing to"),
        (
            "image,text\n" + "images/no.png,a film\n" * 8,
            "8 images in column 'image' of .*bad.csv are not there, the first is .*no.png .line 2 of .*paths start at",
        ),
        ("image,text\n" + "images/0-0.png,\n" * 4, "column 'text' of .*bad.csv is empty in 4 of 4 rows"),
    ],
)
def test_bad_files_are_refused(content, message, clip, pictures, contrastive) -> None:
    path = pictures.parent / "bad.csv"
    path.write_text(content)
    status, printed = contrastive(path, "--model", clip)
    assert status == 2 and re.search(message, printed), printed


def test_a_broken_image_is_named(clip, pictures, contrastive) -> None:
    for path in (pictures.parent / "images").glob("*.png"):
        path.write_bytes(b"no image")
    status, printed = contrastive(pictures, "--model", clip)
    assert status == 2 and re.search(r"18 of 18 pictures of the train data cannot be read.*0-\d+\.png", printed), (
        printed
    )
    for held in (b"no image", b""):
        with pytest.raises(RunError, match="the image None cannot be read"):
            decode({"path": None, "bytes": held})


def test_models_that_do_not_fit_are_named(clip, bert, t5, vit, pictures, contrastive, tmp_path, capsys) -> None:
    tiny.save_vit(bert_and_images := tmp_path / "both")
    tiny.save_bert(bert_and_images)
    status, printed = contrastive(pictures, "--model", bert_and_images)
    assert status == 2 and "is a BertModel, not a model of images and texts" in printed
    status, printed = contrastive(pictures, "--text_model", bert)
    assert status == 2 and "no model for pairs was given; pass --model with a CLIP-like one" in printed
    towers = ["--text_model", t5, "--image_model", vit]
    status, printed = contrastive(pictures, *towers)
    assert status == 2 and "a tower does not accept the pairs (" in printed, printed
    frozen = ["--text_model", bert, "--image_model", vit, "--projection", "none", "--freeze_image", "--freeze_text"]
    status, printed = contrastive(pictures, *frozen)
    assert status == 2 and "everything is frozen and there is no projection to train" in printed
    assert main(["contrastive", "--model", str(clip)]) == 2
    assert "no training data were given; pass --dataset" in capsys.readouterr().err


def test_both_sides_must_be_two_columns(bert, pictures, contrastive) -> None:
    words = ["--text_model", bert, "--second_text_column", "text"]
    assert "both sides of the pairs are column 'text'; name two columns" in contrastive(pictures, *words)[1]


def test_folders_that_hold_no_contrastive_model_are_refused(clip, tmp_path) -> None:
    with pytest.raises(UsageError, match="does not hold a contrastive model"):
        load_contrastive(tmp_path)
    for source in ("no/such-model", str(tmp_path / "not" / "there")):
        with pytest.raises(UsageError, match=f"{source} is neither a folder nor a repository that can be downloaded"):
            load_contrastive(source)
    described = {"class": "ContrastiveModel", "settings": {}, "bases": {"model": str(clip)}}
    settings = {"temperature": {"initial": 0.1}, "loss": "contrastive"}
    (tmp_path / "contrastive.json").write_text(json.dumps(described | {"settings": settings}))
    with pytest.raises(UsageError, match=r"unknown part \['tower'\]; the parts are \['model'\]"):
        load_contrastive(tmp_path, {"tower": "x"})
    with pytest.raises(UsageError, match="contrastive.safetensors does not fit the model"):
        load_contrastive(tmp_path)
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"other": zeros(1)}, tmp_path / "contrastive.safetensors")
    with pytest.raises(UsageError, match=r"has \['other'\], which the model does not have"):
        load_contrastive(tmp_path)


def test_weights_are_not_spread_over_processes(clip, pictures, contrastive, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    status, printed = contrastive(pictures, "--model", clip)
    assert status == 2 and "FSDP shards the weights over processes" in printed and "use DDP (ddp.yaml)" in printed
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # transformers itself wants DeepSpeed to be installed then
    with pytest.raises(UsageError, match="DeepSpeed shards the weights over processes"):
        refuse_sharded_weights()
