"""Kinds of tokens: the kind of word, number or mark that a token is part of, recognized by its form alone."""

import re
from collections.abc import Sequence

import numpy as np

KINDS = ("citation", "number", "name", "identifier", "word", "punctuation", "space", "unknown")
UNKNOWN = KINDS.index("unknown")
"""The kind of tokens whose text is not known."""
_SPACE = KINDS.index("space")

_FORMS = re.compile(
    r"""
      (?P<citation> \\(?:cite\w*|ref|eqref|autoref|cref|label)\*?(?:\[[^\]\n]*\])?\{[^{}\n]*\}  # \cite[p. 3]{smith}
        | (?:(?<=[^\W\d_][ ~])|(?<=[^\W\d_][.,][ ]))\[[1-9]\d{0,2}(?:[,;\u2013-][ ]?\d{1,3})*\]                      # as shown in [3, 14]
        | \([A-Z][\w'\u2019-]+(?:[ ](?:et[ ]al\.|(?:and|&)[ ][A-Z][\w'\u2019-]+))?,?[ ]\d{4}[a-z]?\)  # (Smith et al., 1999)
      )
    | (?P<number> 0[xX][0-9a-fA-F]+ | \d+(?:[.,_]\d+)*(?:[eE][+-]?\d+)?)
    | (?P<identifier> \\[^\W\d_]+                        # \alpha
        | (?=[^\W\d]*?(?:_|\d|[a-z][A-Z]))[^\W\d]\w*     # snake_case, x1, camelCase
        | [^\W\d]\w*(?=\()                               # called(
        | (?<=\w\.)[^\W\d]\w*                            # of.something
      )
    | (?P<name> (?<=[^\s.!?:"\u201c][ ])[A-Z\u00c0-\u00de][^\W\d_]+)  # a capital within a sentence
    | (?P<word> [^\W\d_]+)
    | (?P<punctuation> [^\w\s]+)
    """,
    re.VERBOSE,
)


def kinds(texts: Sequence[str]) -> np.ndarray:
    """The kind of each token of a document, an index of `KINDS`: the kind of its first character that is no space.

    Args:
        texts: what each token adds to the text. A token without text holds the first bytes of a character; it gets the kind of
            the next token.
    """
    kind_C = np.full(sum(map(len, texts)), _SPACE, dtype=np.uint8)
    for match in _FORMS.finditer("".join(texts)):
        kind_C[match.start() : match.end()] = KINDS.index(str(match.lastgroup))
    lengths = np.array([len(text) for text in texts])
    token_C = np.repeat(np.arange(len(texts)), lengths)
    shown_C = kind_C != _SPACE
    kind_N = np.full(len(texts) + 1, _SPACE, dtype=np.uint8)
    kind_N[token_C[shown_C][::-1]] = kind_C[shown_C][
        ::-1
    ]  # the last assignment wins: reversed, it is the first character
    whole_N = np.where(lengths > 0, np.arange(len(texts)), len(texts))
    return kind_N[np.minimum.accumulate(whole_N[::-1])[::-1]]
