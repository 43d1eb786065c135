"""Which corpora memexp itself has settings for; settings from somebody else's run folder may name others."""

from memexp.config.groups import Data
from memexp.config.introspection import choices_of, source_of
from memexp.config.sources import SOURCES


def is_built_in(data: Data) -> bool:
    """Whether the documents and the tokenizer of a corpus are those of a file of `conf/data`, and no file of the user's is read."""
    from memexp.config.compose import compose, typed

    if data.path is not None or data.tokenizer.path is not None:
        return False
    of_source = [choice for choice in choices_of("data") if SOURCES.get(source_of(choice) or "") is type(data.source)]
    composed = (typed(compose("prepare", [f"data={choice}"])) for choice in of_source)
    return any(config.data.source == data.source for config in composed)
