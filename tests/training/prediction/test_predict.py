"""`deep-lora predict` gives what transformers and PEFT compute, and refuses the rest."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    ViTImageProcessor,
)

from dmf import MatrixCompletion
from tests.training import tiny
from training.cli import main

TEXTS = ["the good film", 'a bad plot, very "dull"', "the scene was lovely " * 40]


@pytest.fixture
def predict(tmp_path, capsys):
    """Runs `deep-lora predict` in this process: (exit status, what it printed, rows of the output)."""

    def run(data, *words: object, output=tmp_path / "predicted.jsonl", folder=tmp_path / "run"):
        capsys.readouterr()
        given = [] if output is None else ["--output", output]
        status = main(["predict", *map(str, ["--run", folder, "--data", data, *given, *words])])
        printed = capsys.readouterr()
        lines = output.read_text().splitlines() if status == 0 and output is not None else []
        return status, printed.out + printed.err, [json.loads(line) for line in lines]

    return run


def texts_csv(path, texts=TEXTS, column="text"):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[column], *([text] for text in texts)])
    return path


def adapted(auto_class, base, folder, **settings):
    return PeftModel.from_pretrained(auto_class.from_pretrained(base, **settings), folder).eval()


def test_classes_have_the_probabilities_of_the_model(bert, reviews, finetune, predict, tmp_path) -> None:
    assert finetune(bert, reviews, "--normalized_head")[0] == 0
    from collapse import normalize_classifier_

    with pytest.warns(UserWarning, match="1 of 3 texts are longer than --max_length, and were cut off"):
        status, printed, rows = predict(texts_csv(tmp_path / "new.csv"), "--batch_size", "1")
    assert status == 0 and "3 rows predicted, written to" in printed and [row["text"] for row in rows] == TEXTS
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    normalize_classifier_(model)
    model = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(bert)
    for text, row in zip(TEXTS, rows, strict=True):
        inputs = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            found = torch.softmax(model(**inputs).logits[0], -1)
        assert [row["probability of neg"], row["probability of pos"]] == pytest.approx(found.tolist(), abs=1e-5)
        assert row["prediction"] == ["neg", "pos"][found.argmax()] and row["probability"] == pytest.approx(
            found.max().item()
        )


def test_numbers_go_to_a_csv_file_in_the_folder_of_the_run(bert, finetune, predict, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "scores.csv", label=[row % 7 / 7 for row in range(40)])
    assert finetune(bert, data, "--task", "regression")[0] == 0
    status, printed, _ = predict(
        texts_csv(tmp_path / "new.csv", TEXTS[:2], "words"), "--text_column", "words", output=None
    )
    assert status == 0, printed
    found = pd.read_csv(tmp_path / "run" / "predictions.csv")
    model = adapted(AutoModelForSequenceClassification, bert, tmp_path / "run" / "adapter", num_labels=1)
    inputs = AutoTokenizer.from_pretrained(bert)(TEXTS[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0]
    assert found["words"].tolist() == TEXTS[:2]
    assert found["prediction"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_each_word_has_its_tag_and_none_where_it_was_cut_off(bert, finetune, predict, tmp_path) -> None:
    rows = [{"text": ["the", "film", "was", "good"], "tags": ["O", "N", "O", "A"]}] * 12
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert finetune(bert, tmp_path / "tags.jsonl", "--task", "token_classification")[0] == 0
    (tmp_path / "new.jsonl").write_text(
        json.dumps({"text": ["the", "film"] * 40}) + "\n" + json.dumps({"text": "a plot"})
    )
    with pytest.warns(UserWarning, match="1 of 2 texts are longer"):
        status, printed, found = predict(tmp_path / "new.jsonl")
    assert status == 0, printed
    assert [len(row["prediction"]) for row in found] == [80, 2]
    assert found[0]["prediction"][62:] == [None] * 18 and None not in found[0]["prediction"][:62]
    model = adapted(AutoModelForTokenClassification, bert, tmp_path / "run" / "adapter", num_labels=3)
    with torch.no_grad():
        logits = model(**AutoTokenizer.from_pretrained(bert)("a plot", return_tensors="pt")).logits[0, 1:3]
    assert found[1]["prediction"] == [["A", "N", "O"][number] for number in logits.argmax(-1)]
    (tmp_path / "new.conll").write_text(lines := "the O\nfilm N\n\na O\nplot N\n")
    assert [row["text"] for row in predict(tmp_path / "new.conll")[2]] == [["the", "film"], ["a", "plot"]]
    assert len(predict(tmp_path / "new.conll", folder=tmp_path / "run" / "adapter")[2]) == 2, "of the adapter's run"
    (tmp_path / "new.txt").write_text(lines)
    status, printed, _ = predict(tmp_path / "new.txt")
    assert status == 2 and "each row of --data ends in a tag, as if it were a word; if each line is a word" in printed


def test_a_causal_model_goes_on_from_each_text_whatever_its_neighbours(llama, finetune, predict, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "texts.csv", target=["great film"] * 40)
    assert finetune(llama, data, "--task", "causal_lm", "--target_column", "target")[0] == 0
    texts = ["the good film was", "a plot"]
    status, printed, rows = predict(texts_csv(tmp_path / "new.csv", texts), "--max_new_tokens", "5")
    assert status == 0, printed
    tokenizer = AutoTokenizer.from_pretrained(llama)
    model = adapted(AutoModelForCausalLM, llama, tmp_path / "run" / "adapter")
    for text, row in zip(texts, rows, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:-1]])  # this tokenizer ends texts with [SEP]
        new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
        assert row["prediction"] == tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_prompt_and_answer_have_a_place_in_the_model(llama, finetune, predict, tmp_path) -> None:
    """The model has 64 places: if nothing is asked for, half of them are for the answer."""
    assert finetune(llama, tiny.save_csv(tmp_path / "texts.csv"), "--task", "causal_lm")[0] == 0
    data = texts_csv(tmp_path / "new.csv", ["the good film " * 40])
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than --max_length, .* at most by 89"):
        status, printed, _ = predict(data)  # [CLS] and 120 words
    assert status == 0, printed
    status, printed, _ = predict(data, "--max_new_tokens", "64")
    assert (
        status == 2
        and "--max_new_tokens got 64; the model has 64 positions for the text and its answer; pass fewer" in printed
    )


def test_texts_are_written_for_texts(t5, finetune, predict, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "texts.csv", target=["great film"] * 40)
    words = ["--task", "seq2seq", "--target_column", "target", "--predict_with_generate", "--num_beams", "2"]
    assert finetune(t5, data, *words, "--max_new_tokens", "6")[0] == 0
    texts = ["the good film was", "a plot"]
    status, printed, rows = predict(texts_csv(tmp_path / "new.csv", texts))
    assert status == 0, printed
    model, tokenizer = (
        adapted(AutoModelForSeq2SeqLM, t5, tmp_path / "run" / "adapter"),
        AutoTokenizer.from_pretrained(t5),
    )
    for text, row in zip(texts, rows, strict=True):
        new = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=6, num_beams=2, do_sample=False)
        assert row == {"text": text, "prediction": tokenizer.decode(new[0, 1:], skip_special_tokens=True).strip()}


def test_pictures_have_classes(vit, finetune, predict, tmp_path) -> None:
    for name in ("red", "blue"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (20, 20), name).save(tmp_path / "pictures" / name / f"{number}.png")
    assert finetune(vit, tmp_path / "pictures", command="classify")[0] == 0
    (tmp_path / "new.csv").write_text("image\npictures/red/0.png\npictures/blue/0.png\n")
    status, printed, rows = predict(tmp_path / "new.csv")
    assert status == 0, printed
    assert [row["image"] for row in rows] == [str(tmp_path / "pictures" / name / "0.png") for name in ("red", "blue")]
    model = adapted(AutoModelForImageClassification, vit, tmp_path / "run" / "adapter", num_labels=2)
    pixels = ViTImageProcessor.from_pretrained(vit)([Image.new("RGB", (20, 20), "red")], return_tensors="pt")
    with torch.no_grad():
        found = torch.softmax(model(**pixels).logits[0], -1)
    assert rows[0]["probability of red"] == pytest.approx(found[1].item(), abs=1e-5)
    for name in ("3", "5"):
        (tmp_path / "pictures" / "red" / f"{name}.png").write_bytes(b"")
    status, printed = predict(tmp_path / "pictures" / "red")[:2]
    assert status == 2 and "2 of 6 pictures of the given data cannot be read (" in printed
    assert "red/5.png; the image" in printed and "repair or remove them\n" in printed


def test_entries_of_a_matrix_go_by_the_names_of_the_run(predict, tmp_path) -> None:
    lines = "".join(f"u{row},f{column},{row + column}\n" for row in range(8) for column in range(6))
    (tmp_path / "data.csv").write_text("user,film,stars\n" + lines)
    words = ["--row_column", "user", "--column_column", "film", "--value_column", "stars", "--max_epochs", "2"]
    assert main(["complete", "--data", str(tmp_path / "data.csv"), "--output_dir", str(tmp_path / "run"), *words]) == 0
    (tmp_path / "new.csv").write_text("film,user\nf2,u3\nf0,u7\n")
    status, printed, rows = predict(tmp_path / "new.csv")
    assert status == 0, printed
    model = MatrixCompletion.load(tmp_path / "run" / "model.safetensors")
    assert [row["stars"] for row in rows] == pytest.approx(model.predict([3, 7], [2, 0]).tolist())
    assert [row["user"] for row in rows] == ["u3", "u7"]


def test_what_cannot_be_predicted_is_refused(bert, reviews, finetune, predict, tmp_path, capsys) -> None:
    new = texts_csv(tmp_path / "new.csv")
    assert main(["predict", "--run", "x"]) == 2
    assert "predict needs --run, the folder of a finished run, and --data" in capsys.readouterr().err
    assert "is not the folder of a finished run: results.json cannot be read" in predict(new)[1]
    assert finetune(bert, reviews, "--adapter", "lora")[0] == 0
    told = [
        (["--text_pair_column", "x"], "--text_pair_column has no effect on a run of the task classification; leave it"),
        (["--image_column", "x"], "--image_column has no effect on a run of the task classification"),
        (["--text_column", "x"], "there is no column ['x'] in"),
        (["--batch_size", "0"], "--batch_size got 0; it must be at least 1"),
        (["--split", "dev"], "has the splits ['train']; choose with --split"),
        (["--model", "./nowhere"], "./nowhere cannot be loaded for --task classification: there is no such folder"),
    ]
    clash = texts_csv(tmp_path / "clash.csv", column="prediction")
    status, printed, _ = predict(clash, "--text_column", "prediction")
    assert status == 2 and "the column 'prediction' of the data has the name of a prediction; rename it" in printed
    for words, message in told:
        status, printed, _ = predict(new, *words)
        assert status == 2 and message in printed, printed
    assert f"--output {new} is also the file of --data; pass another name" in predict(new, output=new)[1]
    assert main(["predict", "--run", "x", "--data", "y", "--output", "x.txt"]) == 2
    assert "--output got 'x.txt'; it must end in .csv or .jsonl" in capsys.readouterr().err
    results = tmp_path / "run" / "results.json"
    results.write_text(results.read_text().replace('"task": "classification"', '"task": "image_text_pairs"'))
    assert "deep-lora predict does not know the task 'image_text_pairs'; it knows complete, " in predict(new)[1]
    results.write_text(results.read_text().replace('"status": "complete"', '"status": "stopped"'))
    assert "is not complete; rerun its command to resume it" in predict(new)[1]
