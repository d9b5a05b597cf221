"""Merged units: training a table, merging and expanding, seconds for N units, and how much shorter sequences become.

python bench/merge.py DUMP [N] [SIZE]      # halves of two rows of DUMP up to N units (10^7), a vocabulary of 1000

Expansion is compared with what was merged. The reference is byte-pair merging in plain Python on a hundred rows: for
each merge of the table one pass over the sequence.
"""

import sys
import time

import numpy as np
from common import header

import textless
from textless import Units
from textless.units.merges import fit_merges

total, size = (int(float(a)) for a in (sys.argv[2:] + ["1e7", "1000"][len(sys.argv[2:]) :])[:2])
dump = textless.open_dump(sys.argv[1])
known = [row.units.deduplicated() for row in dump if len(row.units)]
rng, rows = np.random.default_rng(0), []
left = total
while left > 0:  # halves of two rows, so that no row is there twice
    a, b = (known[k] for k in rng.integers(0, len(known), 2))
    frames = np.concatenate([a.frames()[: a.n_frames // 2], b.frames()[b.n_frames // 2 :]])
    rows.append(Units.from_frames(frames, dump.contract))
    left -= len(rows[-1])
n_units = sum(map(len, rows))
header(f"{n_units} units in {len(rows)} rows, {dump.contract.n_units} → {size}")


def timed(what, work):
    start, used = time.perf_counter(), time.process_time()
    result = work()
    print(f"{what}: {time.perf_counter() - start:.1f} s, {time.process_time() - used:.1f} s of processor", flush=True)
    return result


def plainly(table, units):
    values = units.units.tolist()
    assert table.n_units == table.n_base + len(table.pairs)  # no two pairs spell the same
    for new, (a, b) in enumerate(table.pairs, table.n_base):
        out, i = [], 0
        while i < len(values):
            pair = i + 1 < len(values) and values[i] == a and values[i + 1] == b
            out.append(new if pair else values[i])
            i += 1 + pair
        values = out
    return values


table = timed("training", lambda: fit_merges(rows, size, contract=dump.contract))
merged = timed("merging", lambda: [table.merge(units) for units in rows])
back = timed("expanding", lambda: [table.expand(*pair) for pair in merged])
assert all(a == b for a, b in zip(rows, back, strict=True))
part = rows[:: max(1, len(rows) // 100)][:100]
plain = timed(f"plain Python, {sum(map(len, part))} units", lambda: [plainly(table, units) for units in part])
ours = timed("the same, merging", lambda: [table.merge(units)[0].units.tolist() for units in part])
print(f"{n_units / sum(len(m) for m, _ in merged):.2f} times fewer; equal to plain Python: {plain == ours}")
