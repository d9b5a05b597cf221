"""Training a language model against Hugging Face's Trainer on the same units and weights, padded as its collator does.

python bench/train_lm.py DUMP [fp32|bf16]      # deduplicated, context 512, batches of 8 rows; tiny (7.5 M)

Unit tokens per second, without padding; rows of textless are packed. textless also trains its duration head. Medians of
3 runs in turn.
"""

import statistics
import sys
import tempfile
import time

import numpy as np
import torch
import transformers
from common import header

import textless
from textless.lm import UnitLM, train_lm
from textless.lm.hf.llama import to_llama
from textless.lm.model import PRESETS, LMConfig

CONTEXT, ROWS, STEPS = 512, 8, 12
precision = sys.argv[2] if len(sys.argv) > 2 else "fp32"
dump = textless.open_dump(sys.argv[1])
documents = [row.units.deduplicated() for row in dump]
n_units = dump.contract.n_units
lengths = [len(d) + 1 for d in documents]


class Rows(torch.utils.data.Dataset):
    """Documents with `</s>`, the longer ones in parts."""

    def __init__(self):
        streams = [np.append(d.units, n_units) for d in documents]
        self.rows = [s[i : i + CONTEXT] for s in streams for i in range(0, len(s), CONTEXT)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def collate(rows):
    longest = max(map(len, rows))
    tokens = torch.stack(
        [torch.nn.functional.pad(torch.as_tensor(r), (0, longest - len(r)), value=n_units) for r in rows]
    )
    present = torch.arange(longest) < torch.tensor([len(r) for r in rows])[:, None]
    return {"input_ids": tokens, "attention_mask": present.long(), "labels": tokens.masked_fill(~present, -100)}


def theirs() -> float:
    torch.manual_seed(0)
    model = to_llama(UnitLM(LMConfig(n_units=n_units, context=CONTEXT, **PRESETS["tiny"]), dump.contract))
    seen = []

    def count(rows):
        seen.append(sum(map(len, rows)))
        return collate(rows)

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=ROWS,
            max_steps=STEPS,
            use_cpu=True,
            bf16=precision == "bf16",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), data_collator=count)
        start = time.perf_counter()
        trainer.train()
        return sum(seen[:STEPS]) / (time.perf_counter() - start)


def ours() -> float:
    start = time.perf_counter()
    train_lm(
        documents,
        contract=dump.contract,
        steps=STEPS,
        context=CONTEXT,
        batch_tokens=ROWS * CONTEXT,
        dropout=0.0,
        precision=precision,
        preset="tiny",
    )
    return STEPS * ROWS * CONTEXT / (time.perf_counter() - start)


header(
    f"training tiny on {len(documents)} documents, {np.mean(lengths):.0f} tokens each, "
    f"{precision}, {torch.get_num_threads()} threads"
)
pairs = []
ours(), theirs()
for _ in range(3):
    a, b = ours(), theirs()
    pairs.append((a, b, a / b))
a, b, ratio = (statistics.median(column) for column in zip(*pairs, strict=True))
print(f"textless {a:.0f} tokens/s   Trainer {b:.0f}   {ratio:.2f} x")
