"""Errors that end a command with a sentence and not with a traceback, and what must never be printed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{8,}")
_SECRET_SETTING = re.compile(r"(^|_)(token|password|secret|api_key)($|_)")
HIDDEN = "<hidden>"


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
        raise UsageError(f"{what}: {redacted(str(error))}") from error


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
