"""Where documents come from: a class for each schema of `memexp.config.sources`, and nothing else is ever built."""

from pathlib import Path

from memexp.config import sources as options
from memexp.config.checks import check
from memexp.config.groups import Data
from memexp.data.sources.articles import Articles
from memexp.data.sources.document import Document, Source
from memexp.data.sources.files import Files
from memexp.data.sources.package_texts import PackageTexts
from memexp.data.sources.packages import PythonPackages
from memexp.data.sources.pieces import Pieces
from memexp.data.sources.published import Texts
from memexp.data.sources.repositories import Repositories
from memexp.data.sources.tasks import (
    Babi,
    Copy,
    Equations,
    Mqar,
    Needle,
    Passkey,
    Remember,
    Retrieval,
    Reverse,
    Rewrite,
)
from memexp.data.sources.theories import Theories
from memexp.errors import UserError

__all__ = [
    "Articles",
    "Babi",
    "Copy",
    "Document",
    "Equations",
    "Files",
    "Mqar",
    "Needle",
    "PackageTexts",
    "Passkey",
    "Pieces",
    "PythonPackages",
    "Remember",
    "Repositories",
    "Retrieval",
    "Reverse",
    "Rewrite",
    "Source",
    "Texts",
    "Theories",
    "open_source",
]


def open_source(data: Data, root: Path) -> Source:
    """The documents that settings of `data` ask for; nothing is fetched yet.

    Args:
        root: the folder whose data/downloads/ keeps packages that were fetched.

    Raises:
        UserError: an option is refused, or there is nothing at `data.path`.
    """
    check(data, "data")  # also what comes from somebody else's run folder
    chosen, path = data.source, data.path
    match chosen:
        case options.FilesOptions():
            return Files(chosen, path)
        case options.PythonPackagesOptions():
            return PythonPackages(chosen)
        case options.PackageTextsOptions():
            return PackageTexts(chosen, root / "data" / "downloads")
        case options.TextsOptions():
            return Texts(chosen, path)
        case options.ArticlesOptions():
            return Articles(chosen, path)
        case options.PiecesOptions():
            return Pieces(chosen, path)
        case options.RepositoriesOptions():
            return Repositories(chosen, path)
        case options.TheoriesOptions():
            return Theories(chosen, path)
        case options.CopyOptions():
            return Copy(chosen)
        case options.ReverseOptions():
            return Reverse(chosen)
        case options.RetrievalOptions():
            return Retrieval(chosen)
        case options.EquationsOptions():
            return Equations(chosen)
        case options.MqarOptions():
            return Mqar(chosen)
        case options.RememberOptions():
            return Remember(chosen)
        case options.RewriteOptions():
            return Rewrite(chosen)
        case options.PasskeyOptions():
            return Passkey(chosen)
        case options.NeedleOptions():
            return Needle(chosen)
        case options.BabiOptions():
            return Babi(chosen, path)
    raise UserError(f"data.source is of {type(chosen).__name__}; expected one of {', '.join(options.TARGETS)}")
