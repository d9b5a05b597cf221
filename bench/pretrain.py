"""Training steps of the tiny HuBERT (log-mel) against torch's TransformerEncoder of the same size on the same input.

python bench/pretrain.py          # audio hours an hour = times real time; fp32 and bf16 as separate rows
"""

import torch
from common import compare, header
from torch import nn
from torch.nn import functional as F

from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.start import Head

BATCH, SECONDS, CLASSES = 8, 4.0, 300
config = PRESETS["tiny"]
frames = int(SECONDS * 50)
mel = torch.randn(BATCH, 2 * frames - 1, config.n_mels)
labels = torch.randint(0, CLASSES, (BATCH, frames))
mask = torch.rand(BATCH, frames) < 0.5


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.n_mels, config.conv_dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.conv_dim, config.conv_dim, 3, stride=2, padding=1)
        self.pos = nn.Conv1d(config.dim, config.dim, 31, padding=15, groups=config.pos_conv_groups)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, config.ffn_dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(config.dim), enable_nested_tensor=False)
        self.mask = nn.Parameter(torch.randn(config.dim))
        self.head = nn.Linear(config.dim, CLASSES)

    def forward(self):
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel.transpose(1, 2))))).transpose(1, 2)
        x = torch.where(mask[..., None], self.mask.to(x.dtype), x)
        return self.head(self.encoder(x + F.gelu(self.pos(x.transpose(1, 2))).transpose(1, 2)))


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.head = Hubert(config), Head(config.dim, CLASSES, "linear")

    def forward(self):
        return self.head(self.model(mel, mask=mask)[0])


def training(model: nn.Module, bf16: bool, fused: bool):
    optimiser = torch.optim.AdamW(model.parameters(), fused=fused)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model()
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


header(
    f"tiny HuBERT, {sum(p.numel() for p in Hubert(config).parameters()) / 1e6:.1f} M parameters, "
    f"{BATCH} x {SECONDS:g} s a step"
)
for bf16 in (False, True):
    a, b, ratio = compare(training(Ours(), bf16, True), training(Plain(), bf16, False), runs=15)
    audio = BATCH * SECONDS
    print(
        f"{'bf16' if bf16 else 'fp32'}: textless {audio / a:.0f} x real time   torch's encoder {audio / b:.0f} x   "
        f"ratio {ratio:.2f}"
    )
