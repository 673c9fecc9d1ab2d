"""A picture of results, by matplotlib: how many times better we are than each peer, in bars."""
from __future__ import annotations

BAR_INCHES = 0.2
OUR_COLOUR = '#333333'


def check():
    """Raises ``SystemExit`` with an explanation if matplotlib is missing; better before an hour of work."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise SystemExit('--plot needs matplotlib:  pip install "zeo_clone[plot]"') from None


def label(ratio):
    return f'{ratio:.0f}' if ratio >= 10 else f'{ratio:.2g}'


def save(path, results):
    """Draw the ratios of `results` into the file `path`; a notch shows what was aimed at against ZEO."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter
    mine, *peers = results.sides
    rows = [(workload, figure) for workload, figure in results.rows()
            if any(results.ratio(workload, figure, peer) for peer in peers)]
    height = BAR_INCHES * max(1, len(rows)) * (1 + len(peers)) / 2 + 1.5
    picture = Figure(figsize=(10, height), layout='constrained')
    axes = picture.add_subplot()
    thickness = 0.8 / max(1, len(peers))
    for number, peer in enumerate(peers):
        found = [(place, results.ratio(workload, figure, peer))
                 for place, (workload, figure) in enumerate(rows)]
        found = [(place, ratio) for place, ratio in found if ratio is not None]
        bars = axes.barh([place - 0.4 + thickness * (number + 0.5) for place, _ in found],
                         [ratio - 1 for _, ratio in found], thickness, left=1, label=f'against {peer.label}')
        axes.bar_label(bars, [label(ratio) for _, ratio in found], padding=2, fontsize=7)
    aims = [(place, figure.aim) for place, (_, figure) in enumerate(rows) if figure.aim is not None]
    axes.plot([aim for _, aim in aims], [place for place, _ in aims], '|', color=OUR_COLOUR, markersize=14,
              label='aim, against ZEO')
    axes.axvline(1, color=OUR_COLOUR, linewidth=0.8)
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter('{x:g}')
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(rows)), [figure.title for _, figure in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f'times better than the peer: {mine.label}, to the right of 1')
    picture.legend(loc='outside upper right', ncols=1 + len(peers))
    picture.savefig(path)
