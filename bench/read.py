"""A checkpoint of HuBERT base (95 M) up to layer 6, against `torch.load` of the same file.

python bench/read.py       # writes a checkpoint of 378 MB with random weights into the temporary folder, and removes it

`reading` is `open_checkpoint(file).load(6)`: the tensors found, checked to be finite, copied, weight norm folded.
`load_encoder` also prepares them for the extractor, and hashes them for the contract (sha256).
"""

import platform
import tempfile
from pathlib import Path

import torch
from common import compare, header

import textless
from textless.units.encoders.convert import open_checkpoint
from textless.units.encoders.hubert import PRESETS, Hubert


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.partition(": ")[2] for x in lines if x.startswith("model name")), platform.processor())


header(f"HuBERT base to layer 6 from a file, {torch.get_num_threads()} threads of torch, {processor()}")
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "base.pt"
    torch.save(Hubert(PRESETS["base"]).state_dict(), file)
    for name, read in (
        ("reading", lambda: open_checkpoint(file).load(6)),
        ("load_encoder", lambda: textless.load_encoder(file, 6)),
    ):
        ours, theirs, _ = compare(read, lambda: torch.load(file, weights_only=True), runs=15)
        print(f"{name:12} {ours:.3f} s   torch.load {theirs:.3f} s   {ours / theirs:.2f} x", flush=True)
