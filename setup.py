"""README as PyPI shows it; everything else is in setup.cfg."""

import re
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"!?\[([^\[\]]+)\]\((?!https?:)[^)\s]+\)")


def without_relative_links(markdown: str) -> str:
    """Return the text with the words of relative links and pictures in their place; code stays as it is."""
    parts = re.split(r"(```.*?```)", markdown, flags=re.S)
    return "".join(part if number % 2 else _LINK.sub(r"\1", part) for number, part in enumerate(parts))


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf8")
    setup(long_description=without_relative_links(readme))
