"""An embedding table, as it is stored or as int8 with a scale for each row."""

from typing import Any

# Rows that are rounded at once: rounding a whole table would take its float32 size once more.
AT_ONCE = 8192
MOST = 127  # symmetric, so that zero is exact
SMALLEST = 1e-10  # of a scale: a row of zeros stays one


def rounded(rows: Any) -> tuple[Any, Any]:
    """Return a matrix as int8 (n, d), and what each row is multiplied by, (n, 1) float32."""
    import torch

    values = torch.empty(rows.shape, dtype=torch.int8)
    scales = torch.empty((len(rows), 1), dtype=torch.float32)
    for at in range(0, len(rows), AT_ONCE):
        part = rows[at : at + AT_ONCE].detach().float()
        scale = (part.abs().amax(1, keepdim=True) / MOST).clamp_min(SMALLEST)
        values[at : at + AT_ONCE] = (part / scale).round()
        scales[at : at + AT_ONCE] = scale
    return values, scales


class Table:
    """A copy of a table's rows in a dtype."""

    def __init__(self, rows: Any, dtype: Any) -> None:
        # A copy, as a tensor of the file keeps the whole file mapped into memory.
        self._rows = rows.detach().to(dtype, copy=True)

    def __call__(self, ids: Any) -> Any:
        """Return the rows of these ids, (n, d)."""
        from torch.nn import functional

        return functional.embedding(ids, self._rows)


class RoundedTable(Table):
    """A copy of a table's rows as int8, a quarter of float32; what comes out is float32."""

    def __init__(self, rows: Any, dtype: Any) -> None:
        self._rows, self._scales = rounded(rows)

    def __call__(self, ids: Any) -> Any:
        """Return the rows of these ids, (n, d) float32."""
        return super().__call__(ids) * self._scales[ids]
