"""What all plots share: one style, and files that are equal if the plots are. No window opens, and nothing global changes."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from memexp.report.escape import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = [
    f"tab:{name}" for name in ["blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive", "cyan"]
]
_STYLE: Any = {
    "svg.hashsalt": "memexp", "svg.fonttype": "none", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
    # ten colours; the next ten lines are dashed, and then dotted
    "axes.prop_cycle": f"cycler('linestyle', ['-', '--', ':', '-.']) * cycler('color', {_COLOURS})",
}  # fmt: skip


@contextmanager
def drawing(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> "Iterator[Figure]":
    """A figure of this size in inches, to draw on and to write in the `with` block.

    Args:
        layout: how matplotlib finds the margins; None: the caller sets them.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), dpi=130, layout=layout)


def files(figure: "Figure", *kinds: str) -> dict[str, bytes]:
    """The figure as files of these kinds: png, svg, pdf."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Dates and versions are left out, so that equal plots are equal files. `savefig` would draw each plot twice.
    made: dict[str, bytes] = {}
    with warnings.catch_warnings():
        # A name may have letters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        for kind in kinds:
            out = io.BytesIO()
            if kind == "png":
                FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
            elif kind == "svg":
                FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
            else:
                nothing = {"CreationDate": None, "Creator": None, "Producer": None}
                FigureCanvasPdf(figure).print_pdf(out, metadata=nothing)
            made[kind] = out.getvalue()
    return made


def literal(text: str) -> str:
    """`text` without control characters, and with dollar signs that do not start mathematics."""
    return escape(text).replace("$", r"\$")
