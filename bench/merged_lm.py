"""Language models over plain and merged units, given the same processor time: held-out bits a second of audio.

python bench/merged_lm.py DUMP DEV SIZE [MINUTES] [PRESET]      # SIZE of the vocabulary, 0: plain; a process for each

Trains on DUMP and scores DEV. The budget is time of the processor, so that several can run next to each other. Prints
how many times fewer tokens there are, the n-grams of all training units (modified Kneser-Ney, by order), and the model.
"""

import math
import sys
import time
from unittest.mock import patch

import torch
from common import header

import textless
from textless.lm import KneserNey, train_lm
from textless.lm.train import evaluate
from textless.units.merges import fit_merges

torch.set_num_threads(1)
dump, dev = (textless.open_dump(path) for path in sys.argv[1:3])
size, minutes, preset = [*sys.argv[3:6], *["0.35", "nano"][len(sys.argv) - 4 :]]
contract, train, held_out = dump.contract, [row.units for row in dump], [row.units for row in dev]
seconds, plain = sum(units.seconds for units in held_out), [sum(map(len, train)), sum(map(len, held_out))]
if int(size):
    table = fit_merges(train, int(size), contract=contract)
    contract = table.contract
    train, held_out = ([table.merge(units)[0] for units in rows] for rows in (train, held_out))
header(f"{contract.n_units} units, {minutes} minutes of processor, {preset}")
fewer = [before / sum(map(len, rows)) for before, rows in zip(plain, (train, held_out), strict=True)]
print("times fewer tokens, train and held out: " + ", ".join(f"{n:.2f}" for n in fewer))
for order in (1, 2, 3, 5):
    model = KneserNey.fit([units.units for units in train], contract.n_units, order=order)
    nats = sum(float(model.nll(units).sum()) for units in held_out)
    print(f"{order}-gram: {nats / math.log(2) / seconds:.1f} bits a second", flush=True)
with patch("textless.training.loop.time.monotonic", time.process_time):
    lm, metrics = train_lm(train, contract=contract, preset=preset, minutes=float(minutes), batch_tokens=1024, lr=5e-3)
figures = evaluate(lm, held_out)
epochs = metrics["tokens"] / sum(map(len, train))
print(
    f"model: {figures['bits_per_second']:.1f} bits a second, {figures['nll_per_unit']:.3f} nats a unit; "
    f"{metrics['steps']} updates, {epochs:.1f} times through the training units"
)
