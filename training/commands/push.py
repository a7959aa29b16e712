"""`deep-lora push`: upload a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import UsageError
from training.results.hub import push
from training.settings.parsing import option, parse

DESCRIPTION = """Upload the adapter of a finished run, its LoRA export and a model card, in one commit.

  deep-lora push --run runs/reviews --hub_model_id me/reviews --license apache-2.0"""


@dataclass
class PushArguments:
    """What is uploaded, and where to."""

    run: str | None = option(None, "Folder of a finished run (its --output_dir).")
    hub_model_id: str | None = option(
        None, "Repository, user/name. If unset, the name of the folder, in your own account."
    )
    hub_private_repo: bool | None = option(None, "Make a new repository private.")
    hub_token: str | None = option(None, "Access token; better: `hf auth login`, or HF_TOKEN.")
    license: str | None = option(None, "License named in the model card, such as apache-2.0.")


TYPES = (PushArguments,)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    (arguments,) = parse(TYPES, words, command="push", description=DESCRIPTION)
    if not arguments.run:
        raise UsageError("push needs --run, the folder of a finished run")
    address = push(
        Path(arguments.run),
        arguments.hub_model_id,
        private=arguments.hub_private_repo,
        license=arguments.license,
        token=arguments.hub_token,
    )
    print(f"uploaded: {address}")
    return 0
