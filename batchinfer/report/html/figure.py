"""Plots as inline SVG whose colours and letters are the page's, so that they follow its light and dark."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VARIABLES = ("ink", "muted", "grid", "surface", "one", "two", "three", "four", "five", "six", "bad")
COLOURS = {name: f"#{0xFA0001 + 0x100 * n:06x}" for n, name in enumerate(_VARIABLES)}
"""By the name of a CSS variable of the page, the colour that stands for it while a plot is drawn."""
SERIES = tuple(COLOURS[name] for name in ("one", "two", "three", "four", "five", "six"))
_POINTS = 9.0


class Picture:
    """A plot that becomes SVG when its block ends."""

    def __init__(self) -> None:
        self.svg = ""


@contextmanager
def drawn(width: float, height: float) -> Iterator[tuple[Axes, Picture]]:
    """Axes without a frame, of a size in inches, and the picture that is made of them at the end of the block."""
    # Where no folder can be written, or no letters were counted before, it says so; that is none of the user's business.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(COLOURS["grid"])
    axes.tick_params(
        length=0, pad=4, labelsize=_POINTS, labelcolor=COLOURS["muted"], grid_color=COLOURS["grid"], grid_linewidth=0.7
    )
    axes.set_axisbelow(True)
    picture = Picture()
    yield axes, picture
    axes.xaxis.label.set(color=COLOURS["muted"], fontsize=_POINTS)
    axes.yaxis.label.set(color=COLOURS["muted"], fontsize=_POINTS)
    legend = axes.get_legend()
    for text in legend.get_texts() if legend is not None else ():
        text.set(color=COLOURS["ink"], fontsize=_POINTS)
    picture.svg = _svg(figure)


def _svg(figure: Figure) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    made = io.StringIO()
    # Letters stay letters, and the same plot has the same bytes. Nothing else is set for others, who may plot at the same time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "batchinfer"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that its own fonts lack are drawn by the browser's
        FigureCanvasSVG(figure).print_svg(made, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = made.getvalue()
    text = text[text.index("<svg") :]
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text
