"""HuBERT base to layer 6 on real utterances, against transformers' HubertModel with the same weights; agreement of
units on tiny-en.

python bench/encode.py FOLDER [FILES]      # FOLDER holds audio; weights of base are random, which takes the same time

Rows are real-time factors (seconds of computation per second of audio; smaller is faster). `truncated` is transformers
without the blocks above the sixth, `all layers` is `output_hidden_states` of the whole model, both file by file;
textless encodes files in batches, as `textless encode` does, and one by one.
"""

import copy
import sys

import numpy as np
import torch
import transformers
from common import compare, header

import textless
from textless.audio.corpus import Corpus, read_row
from textless.model import EMBEDDED
from textless.units.encoders.hubert import PRESETS, Hubert
from textless.units.encoders.hubert_encoder import HubertEncoder
from textless.units.quantizers import load_codebook

LAYER = 6
rows = list(Corpus.load(sys.argv[1]))
rows = rows[:: max(1, len(rows) // (int(sys.argv[2]) if len(sys.argv) > 2 else 12))]
waves = [read_row(row) for row in rows]
seconds = sum(map(len, waves)) / 16000

torch.manual_seed(0)
model = Hubert(PRESETS["base"])
full = transformers.HubertModel(transformers.HubertConfig()).eval()
full.load_state_dict(model.state_dict())
truncated = transformers.HubertModel(transformers.HubertConfig(num_hidden_layers=LAYER)).eval()
truncated.load_state_dict({k: v for k, v in model.state_dict().items() if k in truncated.state_dict()})
truncated_half = copy.deepcopy(truncated).to(torch.bfloat16)


def loop(module, **options):
    with torch.inference_mode():
        return [module(torch.from_numpy(w)[None].to(module.dtype), **options) for w in waves]


def ours(precision):
    twin = Hubert(PRESETS["base"])  # the encoder cuts its model
    twin.load_state_dict(model.state_dict())
    return HubertEncoder(twin, LAYER, precision=precision)


def batches(encoder):
    batch, length = [], 0
    for wave in waves:
        batch.append(wave)
        length += len(wave)
        if length >= 60 * 16000:
            encoder.encode_batch(batch)
            batch, length = [], 0
    if batch:
        encoder.encode_batch(batch)


def one_by_one(encoder):
    for wave in waves:
        encoder.encode_one(wave)


header(f"HuBERT base to layer {LAYER}, {len(waves)} files, {seconds:.0f} s, {torch.get_num_threads()} threads of torch")
rivals = {
    "truncated fp32": lambda: loop(truncated),
    "all layers fp32": lambda: loop(full, output_hidden_states=True),
    "truncated bf16": lambda: loop(truncated_half),
}
for precision, names in (("fp32", ["truncated fp32", "all layers fp32"]), ("bf16", rivals)):
    encoder = ours(precision)
    for how, f in (("batches", batches), ("one by one", one_by_one)):
        for name in names:
            a, b, ratio = compare(lambda e=encoder, f=f: f(e), rivals[name], runs=5)
            print(
                f"textless {precision} {how:10} {a / seconds:.4f}   transformers {name:15} {b / seconds:.4f}   "
                f"{ratio:.2f} x",
                flush=True,
            )
single, theirs = ours("fp32").encode_one(waves[0]), loop(truncated)[0].last_hidden_state[0].numpy()
print(
    f"largest difference to transformers, of the largest value: "
    f"{np.abs(single - theirs).max() / np.abs(theirs).max():.1e}"
)

# Random weights have no clusters: whether units stay the same is asked of a trained model.
codebook = load_codebook(EMBEDDED / "tiny-en" / "codebook")
single, half = (textless.load("tiny-en", precision=p).tokenizer.encoder for p in ("fp32", "bf16"))
a, b = (np.concatenate([codebook.predict(f) for f in e.encode_batch(waves)]) for e in (single, half))
print(f"tiny-en, {len(a)} frames: {(a == b).mean():.2%} of bf16's units are those of fp32")
a, b = (
    np.concatenate([codebook.predict(f) for f in x])
    for x in (single.encode_batch(waves), map(single.encode_one, waves))
)
print(
    f"tiny-en, {len(a)} frames: {(a != b).sum()} units of files in batches differ from those of files alone (near-ties)"
)
a, b, ratio = compare(lambda: batches(half), lambda: batches(single), runs=5)
print(f"tiny-en real-time factor: bf16 {a / seconds:.5f}, fp32 {b / seconds:.5f}, {ratio:.2f} x")
