"""Where documents come from: a configuration's `data.source._target_` names one of these classes."""

from memexp.data.sources.document import Document, Source
from memexp.data.sources.files import Files
from memexp.data.sources.packages import PythonPackages

__all__ = ["Document", "Files", "PythonPackages", "Source"]
