"""Errors that end a command with a sentence and not with a traceback, and what must never be printed."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{8,}")
_SECRET_SETTING = re.compile(r"(^|_)(token|password|secret|api_key)($|_)")
HIDDEN = "<hidden>"
_LONGEST = 400  # letters of what a library says


class UsageError(ValueError):
    """What was passed cannot work; the message says what came, what is needed and what to do. Exit status 2."""


class RunError(RuntimeError):
    """The run stopped for a reason outside of its arguments: no space, no network, a diverged loss. Exit status 1."""


@contextmanager
def refused(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds, with which a library refuses its arguments, into a sentence.

    Raises:
        UsageError: `what` cannot be done, and the reason that the library gives.

    >>> with refused("the answer cannot be found", ValueError):
    ...     int("x")
    Traceback (most recent call last):
        ...
    training.errors.UsageError: the answer cannot be found: invalid literal for int() with base 10: 'x'
    """
    try:
        yield
    except (UsageError, RunError):
        raise
    except kinds as error:
        raise UsageError(f"{what}: {reason_of(error)}") from error


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turn memory that is full, of the device or of the machine, into a sentence.

    Args:
        remedy: what takes less, as an imperative.

    Raises:
        RunError: with what the library says.

    >>> with enough_memory("pass a smaller --batch_size"):
    ...     raise MemoryError
    Traceback (most recent call last):
        ...
    training.errors.RunError: the memory is full (MemoryError); pass a smaller --batch_size
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _FULL.search(f"{type(error).__name__} {error}"):
            raise
        raise RunError(f"the memory is full ({reason_of(error)}); {remedy}") from error


_FULL = re.compile(r"OutOfMemoryError|out of memory|DefaultCPUAllocator: .*allocate")
# Errors of the network by their names: huggingface_hub, datasets and their libraries have many, of changing parents.
_NETWORK = re.compile(r"LocalEntryNotFound|OfflineMode|Connect|Timeout|NetworkError|ProtocolError|SSLError|MaxRetry")
_UNKNOWN = re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+)Config'>")  # of transformers' auto classes
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE)


def loading_error(what: str, error: Exception, token: str | None = None, aim: str = "") -> Exception:
    """Return the error that something cannot be loaded: a `RunError` for network and disk, else a `UsageError`.

    Args:
        what: is loaded.
        error: of the library.
        token: which the text must not show.
        aim: what it is loaded for, as " for --task x".
    """
    reason = reason_of(error, token)
    causes = list(_causes(error))
    disk = next((one for one in causes if isinstance(one, OSError) and one.errno in _DISK), None)
    if disk is not None:
        return RunError(f"{what} cannot be loaded{aim}, the disk fails: {redacted(str(disk), token)}")
    status = next((code for one in causes if (code := getattr(getattr(one, "response", None), "status_code", 0))), 0)
    if status >= 500 or status == 429 or any(_NETWORK.search(type(one).__name__) for one in causes):
        return RunError(
            f"{what} cannot be loaded{aim}: it is not a local folder, it is not in the cache, and the Hub cannot be "
            f"reached (with HF_HUB_OFFLINE only the cache is searched). {reason}"
        )
    if known := _UNKNOWN.search(str(error)):
        return UsageError(f"{what} cannot be loaded{aim}: {known[1]} models are not made for that; pass another one")
    if any(type(one).__name__ == "HFValidationError" for one in causes):
        return UsageError(f"{what} cannot be loaded{aim}: there is no such folder, and no such name on the Hub")
    return UsageError(f"{what} cannot be loaded{aim}: {reason}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def worded_as_options(options: Mapping[str, str], *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors and warnings about Python arguments into those of a command, whose options have other names.

    Args:
        options: what stands in the text of an error -> the option of the command.
        kinds: errors for which the arguments are to blame.

    Raises:
        UsageError: for an error of these kinds.
        RunError: for any other `OSError`.

    >>> with worded_as_options({"`out`": "--output_dir"}, ValueError):
    ...     raise ValueError("pass `out`")
    Traceback (most recent call last):
        ...
    training.errors.UsageError: pass --output_dir
    """
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        except kinds as error:
            raise UsageError(_reworded(str(error), options)) from error
        except OSError as error:
            raise RunError(str(error)) from error
        finally:
            found = list(caught)
    for warning in found:
        warnings.warn(_reworded(str(warning.message), options), warning.category, stacklevel=3)


def _reworded(text: str, words: Mapping[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(name, word)
    return text


def reason_of(error: Exception, token: str | None = None) -> str:
    r"""Return what a library says as one line of readable length: some print whole models.

    >>> reason_of(ValueError("Linear(\n  x\n)  is not supported")), reason_of(ValueError())
    ('Linear( x ) is not supported', 'ValueError')
    """
    text = " ".join(redacted(str(error), token).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def redacted(text: str, *secrets: str | None) -> str:
    """Return the text without access tokens: those passed, the one in the environment, and whatever looks like one.

    >>> redacted("Bearer hf_abcdefgh12 refused")
    'Bearer <hidden> refused'
    """
    for secret in (*secrets, os.environ.get("HF_TOKEN")):
        if secret:
            text = text.replace(secret, HIDDEN)
    return _TOKEN.sub(HIDDEN, text)


def public_settings(settings: dict[str, Any], *secrets: str | None) -> dict[str, Any]:
    """Return settings fit for a shared file: without tokens, and only with the last part of a path on this machine.

    >>> public_settings({"hub_token": "hf_abcdefgh12", "rank": 8})
    {'rank': 8}
    """
    kept = {}
    for name, value in settings.items():
        if _SECRET_SETTING.search(name.lower()):
            continue
        kept[name] = _public_value(value, secrets)
    return kept


def _public_value(value: Any, secrets: tuple[str | None, ...]) -> Any:
    if isinstance(value, dict):
        return public_settings(value, *secrets)
    if isinstance(value, (list, tuple)):
        return [_public_value(item, secrets) for item in value]
    if isinstance(value, str):
        value = redacted(value, *secrets)
        return os.path.basename(value.rstrip(os.sep)) if os.path.isabs(value) else value
    return value
