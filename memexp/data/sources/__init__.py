"""Where documents come from: a configuration's `data.source._target_` names one of these classes."""

from memexp.data.sources.document import Document, Source
from memexp.data.sources.files import Files
from memexp.data.sources.packages import PythonPackages
from memexp.data.sources.tasks import Copy, Equations, Mqar, Retrieval, Reverse

__all__ = ["Copy", "Document", "Equations", "Files", "Mqar", "PythonPackages", "Retrieval", "Reverse", "Source"]
