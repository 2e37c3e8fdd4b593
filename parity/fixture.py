"""Writes fixtures: gzipped JSON that is the same byte for byte whenever the values are."""

import gzip
import json
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"


def floats(tensor):
    """The values of a tensor, flattened in row-major order, as the shortest decimals that a reader rounds to the same f32.

    They survive a parser that goes through f64, as most JSON parsers do.
    """
    array = np.ascontiguousarray(tensor, dtype=np.float32).ravel()
    if not np.isfinite(array).all():
        raise ValueError("a reference value is not finite")
    decimals = [float(str(value)) for value in array]
    assert (np.array(decimals).astype(np.float32) == array).all()
    return decimals


def write(name, value):
    """Writes `value` to fixtures/<name>.json.gz and returns the size of the file in bytes."""
    path = FIXTURES / f"{name}.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"
    # No time stamp and no file name in the header.
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return path.stat().st_size
