"""Isabelle: the theories of a development are a document."""

import re
from pathlib import PurePosixPath

from memexp.config.sources import TheoriesOptions
from memexp.data.sources.grouped import Grouped

COMMENT = re.compile(r"\(\*.*?\*\)", re.DOTALL)

HEADER = re.compile(r"\btheory\s+\S+\s+imports\s+(.*?)\s(?:keywords|abbrevs|begin)\b", re.DOTALL)
"""What a theory imports."""

IMPORT = re.compile(r'"[^"]*"|[^\s"]+')

COLLECTION = "thys"
"""The folder of the Archive of Formal Proofs whose folders are its entries."""


class Theories(Grouped):
    """A document an entry of the Archive of Formal Proofs, or another folder with a ROOT; its theories in import order.

    A theory stands behind all that it imports from its own document, so definitions come before their uses (Memorizing
    Transformers).

    *Differs from Memorizing Transformers:* of Isabelle's own library all of HOL is a document, for it has one ROOT.
    """

    MARK = "ROOT"

    def __init__(self, options: TheoriesOptions, path: str | None) -> None:
        """
        Args:
            path: a release of the Archive, another folder of folders, or files of rows.
        """
        super().__init__(options, path, suffixes=(".thy",))

    def part(self, path: str) -> str:
        """The entry, in a copy of the Archive; of other repositories the whole."""
        steps = PurePosixPath(path).parts
        return steps[steps.index(COLLECTION) + 1] if COLLECTION in steps[:-2] else ""

    def order(self, name: str, files: dict[str, str]) -> list[str]:
        """Depth first, by name: each theory behind its imports, as they are listed."""
        named = {PurePosixPath(path).stem: path for path in sorted(files, reverse=True)}
        ordered: dict[str, None] = {}
        begun: set[str] = set()

        def visit(path: str) -> None:
            if path in begun:  # also where imports go round in a circle, which Isabelle refuses
                return
            begun.add(path)
            for imported in imports(files[path]):
                beside = str(PurePosixPath(path).with_name(f"{imported}.thy"))
                if (found := beside if beside in files else named.get(imported)) is not None:
                    visit(found)
            ordered[path] = None

        for path in sorted(files):
            visit(path)
        return list(ordered)


def imports(theory: str) -> list[str]:
    """Names of the theories that one imports, without their sessions and folders."""
    header = HEADER.search(COMMENT.sub(" ", theory))
    named = IMPORT.findall(header[1]) if header else []
    return [re.split(r"[/.]", name.strip('"'))[-1] for name in named]
