"""Isabelle: all theories of a development together are a document."""

import re
from pathlib import PurePosixPath

from memexp.config.sources import TheoriesOptions
from memexp.data.sources.grouped import Grouped

COMMENT = re.compile(r"\(\*.*?\*\)", re.DOTALL)

HEADER = re.compile(r"\btheory\s+\S+\s+imports\s+(.*?)\s(?:keywords|abbrevs|begin)\b", re.DOTALL)
"""The header of a theory, with its list of imports."""

IMPORT = re.compile(r'"[^"]*"|[^\s"]+')

COLLECTION = "thys"
"""The folder of the Archive of Formal Proofs that contains a folder for each entry."""


class Theories(Grouped):
    """Each entry of the Archive of Formal Proofs, or other folder with a ROOT, is a document, in the order of imports.

    A theory comes after all theories of its document that it imports, so definitions come before their uses (Memorizing
    Transformers).

    *Differs from Memorizing Transformers:* all of HOL in Isabelle's own library is one document, because it has one ROOT.
    """

    MARK = "ROOT"

    def __init__(self, options: TheoriesOptions, path: str | None) -> None:
        """
        Args:
            path: a release of the Archive, another folder of folders, or files of rows.
        """
        super().__init__(options, path, suffixes=(".thy",))

    def part(self, path: str) -> str:
        """The entry, in a copy of the Archive; empty, for the whole, in other repositories."""
        steps = PurePosixPath(path).parts
        return steps[steps.index(COLLECTION) + 1] if COLLECTION in steps[:-2] else ""

    def order(self, name: str, files: dict[str, str]) -> list[str]:
        """Depth first, in the order of names: each theory comes after its imports."""
        named = {PurePosixPath(path).stem: path for path in sorted(files, reverse=True)}
        ordered: dict[str, None] = {}
        begun: set[str] = set()

        def visit(path: str) -> None:
            if path in begun:  # also if imports are circular, which Isabelle refuses
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
    """Names of the theories that a theory imports, without their sessions and folders."""
    header = HEADER.search(COMMENT.sub(" ", theory))
    named = IMPORT.findall(header[1]) if header else []
    return [re.split(r"[/.]", name.strip('"'))[-1] for name in named]
