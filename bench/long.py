"""Long recordings through tiny-en: how windowed attention differs from attention over the whole file, and the
cost of ten hours.

python bench/long.py FOLDER            # agreement at 2, 5 and 10 minutes of one reader (utterances in their order),
mean of three readers python bench/long.py FOLDER HOURS      # and `textless encode` on a recording of so many hours:
seconds, peak memory, frames
"""

import itertools
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from common import header

import textless
from textless.audio.corpus import Corpus, read_row
from textless.model import EMBEDDED
from textless.units.encoders.load import load_encoder
from textless.units.quantizers import load_codebook

speakers: dict[str, list] = {}
for row in sorted(Corpus.load(sys.argv[1]), key=lambda row: row.id):
    speakers.setdefault(row.id.split("-")[0], []).append(row)
readers = sorted(speakers.values(), key=len)[-3:]
# Cut at frames, so that frames can be compared.
waves = [[w[: len(w) // 320 * 320] for w in map(read_row, rows)] for rows in readers]
codebook = load_codebook(EMBEDDED / "tiny-en" / "codebook")


def units(wave, window):
    return codebook.predict(
        load_encoder(EMBEDDED / "tiny-en" / "encoder", codebook.contract.layer, window=window).encode(wave)
    )


header(
    "tiny-en: units of a long recording, by the attention's window, that equal those of attention over the whole; "
    "of its utterances alone"
)
for minutes in (2, 5, 10):
    whole_alone, figures = [], {30.0: [], 60.0: [], 120.0: []}
    for reader in waves:
        waves, total = [], 0
        for wave in itertools.cycle(reader):
            waves.append(wave)
            if (total := total + len(wave)) > minutes * 60 * 16000:
                break
        wave = np.concatenate(waves)
        places = np.cumsum([0, *(len(w) // 320 for w in waves)])
        alone = [(place, units(w, 0)) for place, w in zip(places, waves, strict=False)]

        def as_alone(of, alone=alone):
            return np.mean(np.concatenate([of[place : place + len(u)] == u for place, u in alone]))

        whole = units(wave, 0)
        whole_alone.append(as_alone(whole))
        for window, row in figures.items():
            cut = units(wave, window)
            assert cut.shape == whole.shape
            row.append((np.mean(cut == whole), as_alone(cut)))
    print(f"{minutes} minutes, whole: {np.mean(whole_alone):.1%} as alone", flush=True)
    for window, row in figures.items():
        print(
            f"{minutes} minutes, window {window:g} s: {np.mean(row, 0)[0]:.1%} as whole, "
            f"{np.mean(row, 0)[1]:.1%} as alone",
            flush=True,
        )

if len(sys.argv) > 2:
    hours = float(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as f:
            left = int(hours * 3600 * 16000)
            for wave in itertools.cycle(itertools.chain(*waves)):
                f.write(wave[:left])
                if (left := left - len(wave)) <= 0:
                    break
        command = [sys.executable, "-m", "textless", "encode", str(path), "-o", f"{folder}/dump"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        frames = sum(row.units.n_frames for row in textless.open_dump(f"{folder}/dump"))
        samples = int(hours * 3600 * 16000)
        print(
            f"{hours:g} hours: peak {usage.ru_maxrss / 2**20:.2f} GiB, {usage.ru_utime + usage.ru_stime:.0f} s of CPU; "
            f"{frames} frames"
        )
        assert frames == (samples - 400) // 320 + 1
