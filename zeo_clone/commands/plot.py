"""A picture of one line, by matplotlib if that is installed.  In: numbers; out: a picture file."""
from __future__ import annotations

from collections.abc import Sequence


def save_plot(path: str, x: Sequence[float], y: Sequence[float], labels: tuple[str, str, str],
              log_x: bool = False) -> None:
    """Draw `y` over `x` into the file `path`; `labels` are those of the picture, of x and of y.

    Raises ``SystemExit`` with an explanation if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit('--plot needs matplotlib:  pip install "zeo_clone[plot]"') from None
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot(x, y, marker='o')
    axes.set_title(labels[0])
    axes.set_xlabel(labels[1])
    axes.set_ylabel(labels[2])
    axes.set_ylim(0, 100)
    axes.grid(True)
    if log_x:
        axes.set_xscale('log')
    figure.savefig(path)
    print(f'picture: {path}')
