"""Greedy continuation against transformers' `generate()` with the same weights: tokens per second, and whether the
tokens are equal.

python bench/lm.py [FOLDER]   # random weights of 11 M and 202 M, and those of TWIST-350M's shape (OPT-350M over 500
units); 1 and 16 prompts of 50 units; with audio, int8 on the trained tiny-en
"""

import functools
import sys

import numpy as np
import torch
from common import compare, header
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

import textless
from textless.lm import ForeignLM, LMConfig, UnitLM, load_lm
from textless.lm.cache import KVCache
from textless.lm.decoder import Decoder
from textless.lm.hf.foreign import UnitTokens
from textless.lm.hf.llama import to_llama
from textless.model import EMBEDDED

SIZES = {
    "11 M": {"dim": 384, "layers": 6, "heads": 6, "ffn_dim": 1024},
    "202 M": {"dim": 1024, "layers": 12, "heads": 16, "ffn_dim": 4096},
}


def llama_pair(shape: dict[str, int]) -> tuple[Decoder, PreTrainedModel]:
    """Ours, and the same weights for `generate()`."""
    lm = UnitLM(LMConfig(n_units=500, context=1024, **shape)).eval()
    return lm, to_llama(lm)


def twist() -> tuple[Decoder, PreTrainedModel]:
    """The shape of TWIST-350M: embeddings narrower than the layers, norms after, unit u is token u + 4."""
    config = OPTConfig(
        vocab_size=504,
        hidden_size=1024,
        word_embed_proj_dim=512,
        num_hidden_layers=24,
        num_attention_heads=16,
        ffn_dim=4096,
        max_position_embeddings=2048,
        do_layer_norm_before=False,
    )
    opt = OPTForCausalLM(config).eval()
    return ForeignLM(opt, UnitTokens(offset=4)).eval(), opt


header(f"greedy continuation, {torch.get_num_threads()} threads of torch")
MODELS = {name: functools.partial(llama_pair, shape) for name, shape in SIZES.items()} | {"TWIST-350M": twist}
for name, make in MODELS.items():
    torch.manual_seed(0)
    (lm, rival), rng = make(), np.random.default_rng(0)
    # Ours begins with </s>, TWIST with the first unit.
    offset, begin = (4, []) if name == "TWIST-350M" else (0, [500])
    for batch in (1, 16):
        prompts = [rng.integers(0, 500, 50) for _ in range(batch)]
        tokens, new = torch.tensor([[*begin, *p + offset] for p in prompts]), {"11 M": 150, "202 M": 60}.get(name, 30)

        def theirs(tokens=tokens, new=new, rival=rival):
            mask = torch.ones_like(tokens)
            return rival.generate(
                tokens, max_new_tokens=new, min_new_tokens=new, do_sample=False, attention_mask=mask, pad_token_id=1
            )

        for precision in ("fp32", "int8"):
            lm.precision = precision

            def ours(prompts=prompts, new=new, lm=lm):
                return lm.continue_units(prompts, max_new_units=new, temperature=0, only_new=True)

            a, b, ratio = compare(ours, theirs, runs=3)
            same = np.mean([u.units == row for u, row in zip(ours(), theirs()[:, -new:].numpy() - offset, strict=True)])
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
