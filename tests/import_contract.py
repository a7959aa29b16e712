"""`ExportedNames`, a type of contract for import-linter, which `make lint` installs."""

from __future__ import annotations

from typing import Any

from importlinter import Contract, ContractCheck, fields, output

from tests.exported_names import unexported_imports
from tests.paths import ROOT


class ExportedNames(Contract):
    """No file under `importers` imports a name of one of `packages`, other than its own, that is not exported."""

    type_name = "exported_names"
    importers: Any = fields.SetField(subfield=fields.StringField())
    packages: Any = fields.SetField(subfield=fields.StringField())

    def check(self, graph: Any, verbose: bool) -> ContractCheck:
        found = [line for folder in sorted(self.importers) for line in unexported_imports(ROOT, folder, self.packages)]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["found"]:
            output.print_error(line)
        output.new_line()
