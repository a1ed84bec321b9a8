"""The history of a training run as a table: rows of numbers, CSV in an archive."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

__all__ = ['HISTORY_COLUMNS', 'history_text', 'parse_history']

HISTORY_COLUMNS = ('epoch', 'step', 'loss', 'floor', 'held_out', 'learning_rate')
MAX_ROWS = 1_000_000
"""Of a history, which has one for each epoch: four days of epochs of a third of a second."""


def history_text(history: Sequence[Mapping[str, float | None]]) -> str:
    """Returns the rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, HISTORY_COLUMNS, extrasaction='ignore')
    writer.writeheader()
    writer.writerows(history)
    return buffer.getvalue()


def parse_history(data: bytes) -> list[dict[str, float | None]]:
    """Returns the rows of CSV; columns that are not known are left out.

    Raises:
        ValueError: no numbers, no CSV, or too many rows.
    """
    try:
        rows = csv.reader(io.StringIO(data.decode(), newline=''))
        columns = {name: index for index, name in enumerate(next(rows, ()))}
        history: list[dict[str, float | None]] = []
        for row in filter(None, rows):
            cells = {
                key: row[columns[key]] if columns.get(key, len(row)) < len(row) else ''
                for key in HISTORY_COLUMNS
            }
            history.append({key: float(text) if text else None for key, text in cells.items()})
            if not math.isfinite(history[-1]['epoch'] or 0.0):
                raise ValueError('an epoch has no number')
            if len(history) > MAX_ROWS:
                raise ValueError(f'it has more than {MAX_ROWS} rows')
        return history
    except csv.Error as error:
        raise ValueError(str(error)) from error
