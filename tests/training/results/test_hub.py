"""Upload, download, load and convert against a local stand-in for the Hub, through `huggingface_hub` itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from tests.paths import ROOT
from tests.training.results.hub_server import TOKEN, Hub
from training.cli import main


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The stand-in after a whole session: what it holds, and how each command of the session ended."""
    folder, server = tmp_path_factory.mktemp("hub"), Hub()
    environment = os.environ | {
        "HF_ENDPOINT": server.address, "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.results.hub_session", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    server.shutdown()
    found = json.loads(done.stdout.splitlines()[-1])
    log = done.stdout + done.stderr
    return SimpleNamespace(server=server, folder=folder, log=log, **found)


def test_a_run_is_uploaded_with_its_export_card_and_results(hub) -> None:
    status, printed = hub.outcomes["train"]
    assert status == 0 and "uploaded" in printed, printed
    held = hub.server.repositories["me/reviews"]
    expected = {"adapter_config.json", "adapter_model.safetensors", "README.md", "results.json", "tokenizer.json"}
    assert expected <= set(held)
    assert {"deep_lora/adapter_config.json", "deep_lora/adapter_model.safetensors"} <= set(held)
    assert json.loads(held["adapter_config.json"])["peft_type"] == "LORA"
    assert "training_args.bin" not in held
    assert hub.server.private["me/reviews"] and not hub.server.private["me/open"]


def test_what_comes_back_predicts_the_same(hub) -> None:
    assert hub.same == [True, True, True] and hub.kinds == ["LORA", "DEEP_LORA"]
    assert hub.outcomes["inspect"][0] == hub.outcomes["convert"][0] == 0
    assert "mean effective rank" in hub.outcomes["inspect"][1]


def test_the_card_says_base_license_metrics_and_how_to_load(hub) -> None:
    card = hub.server.repositories["me/reviews"]["README.md"].decode()
    _, front, text = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "mit" and metadata["base_model"] == "bert" and metadata["library_name"] == "peft"
    assert metadata["tags"] == ["deep-lora", "lora", "peft"] and "More Information" not in text
    for expected in ("import deep_lora", 'me/reviews", is_trainable=True', "num_labels=2", "| validation | accuracy |",
                     '["neg", "pos"]', "## License", "learning_rate"):  # fmt: skip
        assert expected in text, expected


def test_contrastive_runs_are_uploaded_with_what_loads_them(hub) -> None:
    for what in ("towers", "clip"):
        status, printed = hub.outcomes[what]
        assert status == 0 and "uploaded" in printed, printed
    towers, clip = hub.server.repositories["me/towers"], hub.server.repositories["me/clip"]
    assert {"contrastive.json", "contrastive.safetensors", "y_tower/tokenizer.json"} <= set(towers)
    assert {"x_tower/adapter_config.json", "y_tower/deep_lora/adapter_model.safetensors"} <= set(towers)
    assert json.loads(towers["contrastive.json"])["bases"] == {"x_tower": "vit", "y_tower": "bert"}
    front, text = towers["README.md"].decode().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["base_model"] == ["vit", "bert"] and 'load_contrastive("me/towers")' in text
    front, text = clip["README.md"].decode().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["pipeline_tag"] == "zero-shot-image-classification"
    for expected in ('AutoModel.from_pretrained("clip")', 'me/clip", is_trainable=True', "| validation | recall@1 |"):
        assert expected in text, expected


def test_no_token_and_no_path_of_this_machine_leaves_it(hub) -> None:
    contents = b"".join(content for held in hub.server.repositories.values() for content in held.values())
    contents += b"".join(path.read_bytes() for path in (hub.folder / "reviews").rglob("*.json"))
    assert TOKEN.encode() not in contents and b"hf_wrong" not in contents
    for held in hub.server.repositories.values():
        assert not any(str(hub.folder).encode() in content for content in held.values())
    printed = hub.log + "".join(text for _, text in hub.outcomes.values())
    assert TOKEN not in printed and "hf_wrongwrongwrong" not in printed


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("again", 0, "uploaded"),
        ("forbidden", 1, "the upload to stranger/reviews failed: the token may not write there; choose a"),
        ("conflict", 1, "someone else changed the repository at the same moment; repeat the upload"),
        ("broken", 1, "the upload to me/slow failed: the Hub cannot be reached"),
        ("bad token", 1, "the access token was refused; log in with `hf auth login`"),
        ("bad name", 2, "'me/a b' is not a valid repository name"),
        ("gated", 2, "me/gated cannot be loaded"),
        ("missing", 2, "me/nothing cannot be loaded"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub, what, status, message) -> None:
    found, printed = hub.outcomes[what]
    assert found == status and message in printed, printed
    assert "Traceback" not in printed


def test_a_refused_commit_leaves_the_repository_as_it_was(hub) -> None:
    assert hub.server.repositories["me/conflict"] == {}


def test_offline_the_training_is_kept_and_the_upload_can_be_repeated(bert, reviews, finetune, tmp_path) -> None:
    status, printed = finetune(bert, reviews, "--push_to_hub", "--hub_model_id", "me/x", "--hub_token", TOKEN)
    assert status == 1
    assert "offline mode is on (HF_HUB_OFFLINE)" in printed and "; later: deep-lora push --run" in printed
    assert f". The training is complete and saved in {tmp_path}" in printed
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert TOKEN not in printed + (tmp_path / "run" / "results.json").read_text()


def test_only_finished_runs_are_uploaded(tmp_path, capsys) -> None:
    assert main(["push"]) == 2 and "push needs --run, the folder of a finished run" in capsys.readouterr().err
    assert main(["push", "--run", str(tmp_path)]) == 2
    assert "is not the folder of a finished run, results.json cannot be read: " in capsys.readouterr().err
    (tmp_path / "results.json").write_text('{"status": "stopped"}')
    assert main(["push", "--run", str(tmp_path)]) == 2
    assert "is not complete; rerun its command" in capsys.readouterr().err
