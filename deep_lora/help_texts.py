"""The help of each field of a dataclass, from the Args section of its docstring: it is written once."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict


def help_texts(docstring: str | None) -> dict[str, dict[str, str]]:
    """Return for each argument of a Google-style docstring the `metadata` of its field; none under `python -OO`.

    >>> help_texts("Do.\\n\\nArgs:\\n    r: The rank,\\n        a budget.\\n    depth: Factors.")["r"]
    {'help': 'The rank, a budget.'}
    """
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(docstring or ""), re.S | re.M)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section[1] if section else "", re.S | re.M)
    return defaultdict(dict, {name: {"help": " ".join(text.split())} for name, text in entries})
