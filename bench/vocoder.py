"""Units to speech against a published unit HiFi-GAN (13 M), in the same run; and the latency of a stream.

python bench/vocoder.py [SECONDS]      # 10 s by default; random weights, which take the same time

Rows are x real time (seconds of audio per second of computation), then the ratio, medians of runs in turn on one
machine. The HiFi-GAN is the plain module, weight norm folded, in float32.
"""

import statistics
import sys
import time

import numpy as np
import torch
from common import compare, header
from plain_hifigan import CONFIG, Plain

from textless.types import UnitContract
from textless.vocoder import UnitVocoder, VocoderConfig

seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
torch.manual_seed(0)
plain = Plain(CONFIG).eval()
units = torch.randint(CONFIG["num_embeddings"], (seconds * 50,))
contract = UnitContract(n_units=CONFIG["num_embeddings"], sample_rate=16000, frame_rate=50.0)


@torch.inference_mode()
def theirs():
    return plain(units[None])[0, 0].numpy()


threads = torch.get_num_threads()
header(f"{seconds} s of speech from {len(units)} units, {threads} threads of torch")
for preset in ("small", "base"):
    for precision in ("fp32", "bf16"):
        config = VocoderConfig.of(contract, speakers=[str(i) for i in range(23)], preset=preset, f0=True)
        model = UnitVocoder(config, contract).eval()
        model = model.lower() if precision == "bf16" else model
        a, b, ratio = compare(lambda m=model: m.resynth(units.numpy(), speaker=3), theirs, runs=9)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        speed = f"{seconds / a:6.0f} x real time   HiFi-GAN {seconds / b:5.1f} x   {ratio:5.1f} x"
        torch.set_num_threads(1)
        took = []
        pieces = np.split(units.numpy(), seconds * 10)
        last = time.perf_counter()
        for _ in model.stream(pieces, speaker=3):
            took.append(time.perf_counter() - last)
            last = time.perf_counter()
        torch.set_num_threads(threads)
        print(
            f"{preset:5} {precision}  {millions:4.1f} M  {speed}   "
            f"stream: {1e3 * statistics.median(took):4.1f} ms for 100 ms on 1 thread, {model.look_ahead:.2f} s behind",
            flush=True,
        )
