"""Greedy continuation against transformers' `generate()` with the same weights: tokens per second, and whether the
tokens are equal.

python bench/lm.py [FOLDER]   # random weights of 11 M and 202 M, 1 and 16 prompts of 50 units; with audio, int8 on the
trained tiny-en
"""

import sys

import numpy as np
import torch
from common import compare, header

import textless
from textless.lm import LMConfig, UnitLM, load_lm
from textless.lm.cache import KVCache
from textless.lm.hf.llama import to_llama
from textless.model import EMBEDDED

SIZES = {
    "11 M": {"dim": 384, "layers": 6, "heads": 6, "ffn_dim": 1024},
    "202 M": {"dim": 1024, "layers": 12, "heads": 16, "ffn_dim": 4096},
}
header(f"greedy continuation, {torch.get_num_threads()} threads of torch")
for name, shape in SIZES.items():
    torch.manual_seed(0)
    lm = UnitLM(LMConfig(n_units=500, context=1024, **shape)).eval()
    llama, rng = to_llama(lm), np.random.default_rng(0)
    for batch in (1, 16):
        prompts = [rng.integers(0, 500, 50) for _ in range(batch)]
        tokens, new = torch.tensor([[500, *p] for p in prompts]), 150 if name == "11 M" else 60

        def theirs(tokens=tokens, new=new, llama=llama):
            mask = torch.ones_like(tokens)
            return llama.generate(
                tokens, max_new_tokens=new, min_new_tokens=new, do_sample=False, attention_mask=mask, pad_token_id=500
            )

        for precision in ("fp32", "int8"):
            lm.precision = precision

            def ours(prompts=prompts, new=new, lm=lm):
                return lm.continue_units(prompts, max_new_units=new, temperature=0, only_new=True)

            a, b, ratio = compare(ours, theirs, runs=3)
            same = np.mean([u.units == row for u, row in zip(ours(), theirs()[:, 51:].numpy(), strict=True)])
            print(
                f"{name}, batch {batch:2}: textless {precision} {batch * new / a:.0f} tokens/s   "
                f"generate() {batch * new / b:.0f}   {ratio:.2f} x   {same:.1%} of the tokens equal",
                flush=True,
            )

if len(sys.argv) > 1:
    # Random weights leave nothing to decide between; what int8 changes is asked of a trained model, step by step on
    # real units.
    encoder = textless.load("tiny-en")
    exact, quantised = (load_lm(EMBEDDED / "tiny-en" / "lm", precision=p) for p in ("fp32", "int8"))
    same, steps = 0, 0
    with torch.inference_mode():
        for row in list(textless.Corpus.load(sys.argv[1]))[::60]:
            units = encoder.encode(textless.read_audio(row.path)).units.tolist()
            tokens = torch.tensor([exact.n_units, *units])[: exact.config.context]
            cache = KVCache(exact.config, 1, len(tokens), exact.device)
            want = exact.unit_logits(exact(tokens[None]))[0].argmax(-1)
            got = [int(quantised.unit_logits(quantised.forward_cached(t[None, None], cache)).argmax()) for t in tokens]
            same, steps = same + int((want == torch.tensor(got)).sum()), steps + len(tokens)
    print(f"tiny-en: {same / steps:.2%} of {steps} greedy steps on real units are the same with int8")
