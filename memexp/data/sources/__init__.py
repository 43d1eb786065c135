"""Where documents come from: a configuration's `data.source._target_` names one of these classes."""

from memexp.data.sources.articles import Articles
from memexp.data.sources.document import Document, Source
from memexp.data.sources.files import Files
from memexp.data.sources.package_texts import PackageTexts
from memexp.data.sources.packages import PythonPackages
from memexp.data.sources.pieces import Pieces
from memexp.data.sources.published import Texts
from memexp.data.sources.repositories import Repositories
from memexp.data.sources.tasks import Copy, Equations, Mqar, Retrieval, Reverse
from memexp.data.sources.theories import Theories

__all__ = [
    "Articles",
    "Copy",
    "Document",
    "Equations",
    "Files",
    "Mqar",
    "PackageTexts",
    "Pieces",
    "PythonPackages",
    "Repositories",
    "Retrieval",
    "Reverse",
    "Source",
    "Texts",
    "Theories",
]
