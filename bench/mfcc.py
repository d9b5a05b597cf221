"""Decoding and MFCC, as the steps do it (files decoded ahead in threads), against a plain loop of
soundfile and the same MFCC.

python bench/mfcc.py FOLDER [FILES]
"""

import sys

import soundfile
from common import compare, header

from textless.audio.corpus import Corpus, read_rows
from textless.audio.mfcc import mfcc

rows = list(Corpus.load(sys.argv[1]))[: int(sys.argv[2]) if len(sys.argv) > 2 else 200]
seconds = sum(soundfile.info(row.path).duration for row in rows)


def ours():
    for _, waveform in read_rows(rows):
        mfcc(waveform)


def plain():
    for row in rows:
        mfcc(soundfile.read(row.path, dtype="float32")[0])


header(f"decode and MFCC, {len(rows)} files, {seconds / 60:.0f} minutes")
a, b, ratio = compare(ours, plain, runs=5)
print(f"textless {seconds / a:.0f} x real time   plain loop {seconds / b:.0f} x   ratio {ratio:.2f}")
