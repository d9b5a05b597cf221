"""The generator of a published unit HiFi-GAN as published, which the benchmarks compare with."""

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "num_embeddings": 100,
    "embedding_dim": 128,
    "model_in_dim": 128,
    "upsample_initial_channel": 512,
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "sampling_rate": 16000,
    "code_hop_size": 320,
}
SLOPE = 0.1


class ResBlock(nn.Module):
    def __init__(self, channels, kernel, dilations):
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) * d // 2, dilation=d) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for d in dilations)

    def forward(self, x):
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class Plain(nn.Module):
    """The published generator, (1, T) → (1, 1, T * 320)."""

    def __init__(self, config):
        super().__init__()
        width = config["upsample_initial_channel"]
        self.dict = nn.Embedding(config["num_embeddings"], config["embedding_dim"])
        self.conv_pre = nn.Conv1d(config["embedding_dim"], width, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True):
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=(kernel - rate) // 2))
            width //= 2
            for size, dilations in zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True):
                self.resblocks.append(ResBlock(width, size, dilations))
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, units):
        x, kinds = self.conv_pre(self.dict(units).transpose(1, 2)), len(self.resblocks) // len(self.ups)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            x = sum(block(x) for block in self.resblocks[i * kinds : (i + 1) * kinds]) / kinds
        return torch.tanh(self.conv_post(F.leaky_relu(x)))
