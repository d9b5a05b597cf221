"""A published unit HiFi-GAN (13 M, the size of all released ones) through `load_hifigan`, against the published
modules, weight norm folded.

python bench/hifigan.py [SECONDS]      # 10 s by default; random weights, which take the same time

Rows are x real time (seconds of audio per second of computation; larger is faster), then the ratio to the plain module,
both on the same machine in turn. bf16 is compared with the plain module in float32, and in bf16.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

import torch
from common import compare, header
from plain_hifigan import CONFIG, Plain
from torch import nn

from textless.vocoder.hifigan.model import load_hifigan

seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
torch.manual_seed(0)
plain = Plain(CONFIG).eval()
with torch.no_grad():
    for module in plain.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            module.weight *= (
                1.8  # torch's initial values fade from layer to layer; a difference should be heard at the end
            )
with tempfile.TemporaryDirectory() as folder:
    torch.save({"generator": plain.state_dict()}, Path(folder) / "g.pt")
    (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
    single, half = (load_hifigan(Path(folder) / "g.pt", precision=p) for p in ("fp32", "bf16"))
units = torch.randint(CONFIG["num_embeddings"], (seconds * 50,))
plain_half = copy.deepcopy(plain).to(torch.bfloat16)


@torch.inference_mode()
def theirs(module=plain):
    return module(units[None])[0, 0].float().numpy()


header(
    f"unit HiFi-GAN, {sum(p.numel() for p in plain.parameters()) / 1e6:.1f} M, {seconds} s, "
    f"{torch.get_num_threads()} threads of torch"
)
for name, model, rivals in (("fp32", single, {"fp32": plain}), ("bf16", half, {"fp32": plain, "bf16": plain_half})):
    for rival, module in rivals.items():
        a, b, ratio = compare(lambda m=model: m.resynth(units.numpy()), lambda m=module: theirs(m), runs=7)
        print(
            f"textless {name} {seconds / a:.1f} x real time   plain {rival} {seconds / b:.1f} x   {ratio:.2f} x",
            flush=True,
        )
reference = theirs()
for name, result in (
    ("textless fp32", single.resynth(units.numpy())),
    ("textless bf16", half.resynth(units.numpy())),
    ("plain bf16", theirs(plain_half)),
):
    off = result - reference
    snr = 10 * torch.log10(torch.tensor((reference**2).mean() / (off**2).mean()))
    print(
        f"{name}: largest difference {abs(off).max() / abs(reference).max():.1e} of the largest value, SNR {snr:.0f} dB"
    )
