"""ABX of MFCC and of their units on aligned speech, against the loop over triples that the tests compare with.

python bench/abx.py DIR CORPUS SPLIT

DIR holds CORPUS.phones.tsv (id, start, end, phone), splits.tsv (id, speaker, split) and the audio in CORPUS/.
"""

import sys
from pathlib import Path

import numpy as np
from common import compare, header

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import naive_abx

from textless.audio.corpus import Corpus, read_rows
from textless.audio.mfcc import FRAME_RATE, mfcc
from textless.metrics.abx_error import abx
from textless.metrics.alignments import frame_span, read_alignments
from textless.metrics.items import items_of
from textless.units.kmeans import fit_codebook

folder, corpus, split = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
alignments = read_alignments(folder / f"{corpus}.phones.tsv")
rows = [row for row in Corpus.load(folder / corpus, splits=folder / "splits.tsv", split=split) if row.id in alignments]
frames = {row.id: mfcc(waveform).astype(np.float64) for row, waveform in read_rows(rows)}
codebook, _ = fit_codebook([f.astype(np.float32) for f in frames.values()], 100, iterations=10)
units = {name: codebook.predict(f.astype(np.float32)) for name, f in frames.items()}
items = items_of({row.id: alignments[row.id] for row in rows}, {row.id: row.speaker for row in rows})
ALL = 10**6  # no limits: both compare the same triples


def segments(files):
    ordered = sorted(items, key=lambda i: (i.previous, i.next, i.speaker, i.phone, i))
    spans = [(i, *frame_span(i.onset, i.offset, len(files[i.file]), frame_rate=FRAME_RATE)) for i in ordered]
    return [(files[i.file][a:b], i.phone, (i.previous, i.next), i.speaker) for i, a, b in spans if a < b]


header(f"ABX, {len(rows)} files, {len(items)} triphones at {FRAME_RATE:.0f} Hz")
for files, kind in ((frames, "angular"), (units, "discrete")):
    pieces = segments(files)
    for speakers in ("within", "across"):
        options = {
            "frame_rate": FRAME_RATE,
            "distance": kind,
            "speakers": speakers,
            "max_items": ALL,
            "max_speakers": ALL,
        }
        error = abx(files, items, **options)["error"]
        naive = naive_abx.abx(pieces, kind=kind, speakers=speakers)
        for remember, name in ((False, "warping for each triple"), (True, "warping each pair once")):
            a, b, ratio = compare(
                lambda files=files, options=options: abx(files, items, **options),
                lambda pieces=pieces, kind=kind, speakers=speakers, remember=remember: naive_abx.abx(
                    pieces, kind=kind, speakers=speakers, remember=remember
                ),
                runs=1,
            )
            print(
                f"{kind:8} {speakers}  textless {a:.2f} s   {name} {b:.1f} s   ratio {ratio:.0f}   "
                f"errors {error:.6f} {naive:.6f}"
            )
