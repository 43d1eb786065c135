"""Algorithmic tasks: documents that are drawn from a seed, of which only an answer is scored."""

from memexp.data.sources.tasks.babi import Babi
from memexp.data.sources.tasks.echo import Copy, Reverse
from memexp.data.sources.tasks.equations import Equations
from memexp.data.sources.tasks.hidden import Needle, Passkey
from memexp.data.sources.tasks.recall import Mqar, Remember, Retrieval, Rewrite

__all__ = ["Babi", "Copy", "Equations", "Mqar", "Needle", "Passkey", "Remember", "Retrieval", "Reverse", "Rewrite"]
