"""Upload a finished run to the Hub: adapter, card, results and picture, in one commit."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from deep_lora import put_lora_at_root
from training.errors import RunError, UsageError, redacted
from training.names import (
    ADAPTER,
    ADAPTER_CONFIG,
    CARD,
    CONTRASTIVE_CONFIG,
    EXPORT,
    FIGURE,
    RESULTS,
    TRAINABLE,
    TRAINING_ARGUMENTS,
)
from training.results.card import model_card, read_results

# What huggingface_hub sends requests with, by release.
_NETWORK_LIBRARIES = (
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "requests",
    "urllib3",
)
_REASONS = {
    401: "the access token was refused; log in with `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "the token may not write there; choose a --hub_model_id under your own name, or ask for access",
    409: "someone else changed the repository at the same moment; repeat the upload",
    412: "someone else changed the repository at the same moment; repeat the upload",
    413: "the Hub refused files of this size",
    429: "too many requests; repeat the upload later",
}


def push(
    folder: Path,
    repository: str | None = None,
    *,
    private: bool | None = None,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the adapter of a run, and return the address of the commit.

    One commit holds everything, so an interrupted upload leaves the repository as it was. At the root is a plain LoRA,
    and what Deep LoRA trains on under `deep_lora`; so it is for runs of earlier versions, which had folders for both.

    Args:
        folder: of a finished run.
        repository: user/name, or a name under your own; the folder's name if None.
        private: make a new repository private.
        license: named in the card.
        token: an access token; the one that is logged in if None.

    Raises:
        UsageError: the folder holds no finished run, or the name cannot be one.
        RunError: the Hub cannot be reached or refuses; the text says what to do.
    """
    results = _finished(folder)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    wanted = repository or folder.resolve().name
    try:
        name = wanted if "/" in wanted else f"{api.whoami()['name']}/{wanted}"
        with tempfile.TemporaryDirectory() as staged:
            _stage(folder, Path(staged), results, name, license)
            address = api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=address.repo_id, folder_path=staged, commit_message="Adapter and results"
            )
    except HFValidationError as error:
        raise UsageError(f"{wanted!r} is not a valid repository name: {redacted(str(error), token)}") from error
    except OSError as error:
        raise RunError(f"the upload to {wanted} failed: {_reason(error, token)}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _NETWORK_LIBRARIES:
            raise
        raise RunError(f"the upload to {wanted} failed: {_unreachable(error, token)}") from error
    return redacted(str(commit.commit_url), token)


def _finished(folder: Path) -> dict[str, Any]:
    try:
        results = read_results(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not the folder of a finished run, {RESULTS} cannot be read: {error}") from error
    if results.get("status") != "complete" or not any(
        (folder / ADAPTER / name).is_file() for name in (ADAPTER_CONFIG, CONTRASTIVE_CONFIG)
    ):
        raise UsageError(f"the run in {folder} is not complete; rerun its command to resume it")
    return results


def _stage(folder: Path, staged: Path, results: dict[str, Any], repository: str, license: str | None) -> None:
    """Copy everything that is uploaded, as it will lie in the repository."""
    shutil.copytree(folder / ADAPTER, staged, dirs_exist_ok=True)
    _put_old_exports_at_root(folder / EXPORT, staged)
    for name in (RESULTS, FIGURE):
        if (folder / name).is_file():
            shutil.copy(folder / name, staged)
    for path in staged.rglob(ADAPTER_CONFIG):
        _name_base(path)
    for path in staged.rglob(CONTRASTIVE_CONFIG):
        _name_bases(path)
    for name in (TRAINING_ARGUMENTS, CARD):  # PEFT's own cards name the base model's folder on this machine
        for path in staged.rglob(name):
            path.unlink()
    configs = [staged / TRAINABLE / ADAPTER_CONFIG, staged / ADAPTER_CONFIG, *_tower_configs(staged)]
    adapter: dict[str, Any] = next(
        (json.loads(path.read_text(encoding="utf-8")) for path in configs if path.is_file()), {}
    )
    license = license or results["settings"].get("license")
    plain = any(staged.rglob(f"{TRAINABLE}/{ADAPTER_CONFIG}"))
    (staged / CARD).write_text(model_card(results, adapter, repository, license, plain=plain), encoding="utf-8")


def _tower_configs(staged: Path) -> list[Path]:
    return [
        *sorted(staged.glob(f"*_tower/{TRAINABLE}/{ADAPTER_CONFIG}")),
        *sorted(staged.glob(f"*_tower/{ADAPTER_CONFIG}")),
    ]


def _put_old_exports_at_root(exports: Path, staged: Path) -> None:
    """Arrange what runs of earlier versions have in two folders as one, each LoRA above its Deep LoRA."""
    for path in sorted(exports.rglob(ADAPTER_CONFIG)):
        lora = path.parent
        put_lora_at_root(staged / lora.relative_to(exports), partial(shutil.copytree, lora))


def _name_base(path: Path) -> None:
    """Keep only the last part of the name of a base model in a folder of this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if isinstance(base, str) and _is_local(base):
        config["base_model_name_or_path"] = Path(base).name
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _name_bases(path: Path) -> None:
    """Do the same for a model that is put together of several."""
    described = json.loads(path.read_text(encoding="utf-8"))
    bases = {part: Path(base).name if _is_local(base) else base for part, base in described["bases"].items()}
    path.write_text(json.dumps(described | {"bases": bases}, indent=2) + "\n", encoding="utf-8")


def _is_local(base: str) -> bool:
    return os.path.isabs(base) or Path(base).is_dir()


def _reason(error: OSError, token: str | None) -> str:
    """Say what a failure of `huggingface_hub` means, and what to do."""
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE); unset it and repeat the upload"
    if isinstance(error, LocalTokenNotFoundError):
        return _REASONS[401]
    if isinstance(error, GatedRepoError):
        return "the repository is gated; ask its owner for access on its page"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in _REASONS:
        return _REASONS[status]
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private and the token may not see it"
    if isinstance(error, HfHubHTTPError):
        return redacted(f"the Hub answered {status}: {str(error).splitlines()[0]}", token)
    return _unreachable(error, token)


def _unreachable(error: Exception, token: str | None) -> str:
    return redacted(f"the Hub cannot be reached ({type(error).__name__}: {error}); repeat the upload later", token)
