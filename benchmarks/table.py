"""Results as text: Markdown tables that can be read as they are, and plain data for JSON."""
from __future__ import annotations

NONE = '-'


def number(value):
    """Three digits or so, whatever the size."""
    if value >= 100:
        return f'{value:,.0f}'
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}' if value >= 0.1 else f'{value:.4f}'


def shown(spread):
    """``median (lowest-highest)``"""
    if spread is None:
        return NONE
    if spread.low == spread.high:
        return number(spread.median)
    return f'{number(spread.median)} ({number(spread.low)}-{number(spread.high)})'


def times(ratio):
    return NONE if ratio is None else f'{ratio:.2f}x'


def aim(figure):
    return times(figure.aim) if figure.limit is None else f'<= {figure.limit:g}'


def comparison(results):
    """The table of `results`: for each side its figures, for each peer how many times better we are."""
    mine, *peers = results.sides
    head = ['workload', 'unit', mine.label]
    for peer in peers:
        head += [peer.label, 'ratio']
    rows = []
    for workload, figure in results.rows():
        row = [figure.title, figure.unit, shown(results.spread(workload, figure, mine))]
        for peer in peers:
            row += [shown(results.spread(workload, figure, peer)),
                    times(results.ratio(workload, figure, peer))]
        rows.append([*row, aim(figure), 'MISSED' if results.met(workload, figure) is False else ''])
    return markdown([*head, 'aim', ''], rows, left=2)


def growth(slopes):
    """The table of `slopes` (see `benchmarks.growth`)."""
    head = ['workload', 'unit', 'side', '10x', 'before', 'after', 'cost of one', 'linear', '']
    rows = [[slope.figure.title, slope.figure.unit, slope.side.label, slope.axis, number(slope.before),
             number(slope.after), times(slope.cost), f'{slope.linear}x', 'STEEPER' if slope.steeper else '']
            for slope in slopes]
    return markdown(head, rows, left=4)


def markdown(head, rows, left):
    """A table with aligned columns; the first `left` are text."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells):
        padded = [cell.ljust(width) if column < left else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(cells, widths, strict=True))]
        return f'| {" | ".join(padded)} |'

    rule = ['-' * (width + 2) if column < left else '-' * (width + 1) + ':'
            for column, width in enumerate(widths)]
    return '\n'.join([line(head), f'|{"|".join(rule)}|', *map(line, rows)])


def data(results):
    """Everything as a list for JSON, one object per figure."""
    mine, *peers = results.sides
    return [
        {'workload': workload.name, 'figure': figure.title, 'unit': figure.unit,
         'more_is_better': figure.more_is_better, 'aim': figure.aim, 'limit': figure.limit,
         'met': results.met(workload, figure),
         'rounds': {side.name: results.values.get((workload.name, figure.key, side.name), [])
                    for side in results.sides},
         'median': {side.name: spread.median if spread else None for side in results.sides
                    for spread in [results.spread(workload, figure, side)]},
         'ratio': {peer.name: results.ratio(workload, figure, peer) for peer in peers}}
        for workload, figure in results.rows()]


def growth_data(slopes):
    """The same for slopes."""
    return [{'workload': slope.workload.name, 'figure': slope.figure.title, 'unit': slope.figure.unit,
             'side': slope.side.name, 'axis': slope.axis, 'before': slope.before, 'after': slope.after,
             'cost': slope.cost, 'linear': slope.linear, 'steeper': slope.steeper} for slope in slopes]
