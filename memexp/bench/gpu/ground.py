"""What the checks of a GPU run on: the device, and the sizes at which it is checked. This module does not load torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ground:
    """A device, and the sizes that are tried on it; lanes that do not fit into its memory are left out."""

    device: str
    """The setting `device`."""
    memory: int
    """Bytes of the device."""
    large: tuple[str, ...] = ("size=200m", "data.tokenizer.vocabulary=32000")
    """Settings of the model whose speed and memory are measured."""
    small: tuple[str, ...] = ("size=small", "lanes=4", "accumulate=1", "bptt_segments=0")
    """Settings of the models whose values are compared, and that many jobs train."""
    lanes: int = 32
    slots: tuple[int, ...] = (65_536, 262_144)
    """Sizes of a memory of pairs, smallest first."""
    heads: int = 8
    head_size: int = 128
    length: int = 512
    """Queries of a lane and head."""
    neighbours: int = 32
    searches: tuple[str, ...] = ("fused", "plain")
    """Modules of scores that search."""
    compiled: bool = True
    """Whether a compiled step is measured too."""
    kernels: int = 1500
    """The most kernels wanted of a step that is not compiled."""
    square: int = 8192
    """Rows and columns of the matrices whose product is timed."""
    copied: int = 1 << 32
    """Bytes of the tensor whose copying is timed."""
    saved: int = 8 << 30
    """The largest state, in bytes, that is written to a disk."""
    jobs: int = 8
    tokens: int = 64
    """Tokens to generate."""
    repeats: int = 5
    """How often short work is timed."""

    def describe(self) -> str:
        """The sizes in one line."""
        return (
            f"{self.heads} heads of {self.head_size}, {self.length} queries and {self.neighbours} neighbours in a search; steps of "
            f"{' '.join(self.large)} with at most {self.lanes} lanes; values of {' '.join(self.small)}"
        )
