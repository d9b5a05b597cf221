"""Causal language models of `transformers`, arranged for fast inference: OPT, and Llama with its likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from textless.lm.fast_decode import FastDecoder, FastRMSNorm, Layer, Map, Positions, swiglu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Linear = Callable[[nn.Linear], Map]  # of `textless.lm.fast_decode.LINEAR`


def can_arrange(model: PreTrainedModel) -> bool:
    """Whether `arrange` has this architecture."""
    c: Any = model.config
    if c.model_type == "opt":
        return True
    rope = getattr(c, "rope_parameters", None) or getattr(c, "rope_scaling", None) or {}
    plain = rope.get("rope_type", "default") == "default" and getattr(c, "hidden_act", None) == "silu"
    return c.model_type in ("llama", "qwen2", "mistral") and plain


def arrange(model: PreTrainedModel, linear: Linear, rows: Callable[[Tensor], Tensor]) -> FastDecoder:
    """The weights of a model for which `can_arrange` holds.

    Args:
        linear: its linear layers.
        rows: tokens → those of the model.
    """
    return (_opt if model.config.model_type == "opt" else _llama)(model, linear, rows)


def _opt(model: Any, linear: Linear, rows: Callable[[Tensor], Tensor]) -> FastDecoder:
    """OPT (Zhang et al. 2022, arXiv:2205.01068): positions are learned; 350M has norms after, and its embeddings are
    narrower than its layers.
    """
    decoder = model.model.decoder
    places, first = decoder.embed_positions.weight.detach(), decoder.embed_positions.offset

    def embed(tokens: Tensor, positions: Positions) -> Tensor:
        x = decoder.embed_tokens.weight[rows(tokens)]
        x = x if decoder.project_in is None else decoder.project_in(x)
        return x + places[first:][positions]

    def final(x: Tensor) -> Tensor:
        x = x if decoder.final_layer_norm is None else decoder.final_layer_norm(x)
        return x if decoder.project_out is None else decoder.project_out(x)

    layers = [
        Layer(
            b.self_attn_layer_norm,
            linear(joined(b.self_attn.q_proj, b.self_attn.k_proj, b.self_attn.v_proj)),
            linear(b.self_attn.out_proj),
            b.final_layer_norm,
            linear(b.fc1),
            b.activation_fn,
            linear(b.fc2),
        )
        for b in decoder.layers
    ]
    c = model.config
    post_norm = not c.do_layer_norm_before
    return FastDecoder(embed, layers, final, heads=c.num_attention_heads, rotary=None, post_norm=post_norm)


def _llama(model: Any, linear: Linear, rows: Callable[[Tensor], Tensor]) -> FastDecoder:
    """Llama (Touvron et al. 2023, arXiv:2302.13971); Qwen2 has biases, and both may share keys and values."""
    decoder, c = model.model, model.config
    heads = c.num_key_value_heads
    group = c.num_attention_heads // heads

    def layer(block: Any) -> Layer:
        attention, mlp = block.self_attn, block.mlp
        width = attention.head_dim
        # Head h · group + g of the queries reads head h of the keys: in the order (g, h), see `FastDecoder`.
        order = torch.arange(group * heads * width).view(heads, group, width).transpose(0, 1).flatten()
        order = order.to(attention.q_proj.weight.device)
        queries = linear_of(attention.q_proj.weight[order], attention.q_proj.bias, order)
        return Layer(
            FastRMSNorm(block.input_layernorm.weight, block.input_layernorm.variance_epsilon),
            linear(joined(queries, attention.k_proj, attention.v_proj)),
            linear(linear_of(attention.o_proj.weight[:, order], attention.o_proj.bias)),
            FastRMSNorm(block.post_attention_layernorm.weight, block.post_attention_layernorm.variance_epsilon),
            linear(joined(mlp.gate_proj, mlp.up_proj)),
            swiglu,
            linear(mlp.down_proj),
        )

    places = torch.arange(c.max_position_embeddings, device=decoder.norm.weight.device)
    cos, sin = (table[0] for table in decoder.rotary_emb(decoder.norm.weight[None], places[None]))
    return FastDecoder(
        lambda tokens, positions: decoder.embed_tokens.weight[rows(tokens)],
        [layer(block) for block in decoder.layers],
        FastRMSNorm(decoder.norm.weight, decoder.norm.variance_epsilon),
        heads=heads,
        group=group,
        rotary=(cos, sin),
    )


def linear_of(weight: Tensor, bias: Tensor | None, order: Tensor | None = None) -> nn.Linear:
    """A linear layer of these weights, its bias in this order; nothing is initialised."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        bias = bias.detach()
        layer.bias = nn.Parameter(bias if order is None else bias[order], requires_grad=False)
    return layer


def joined(*layers: nn.Linear) -> nn.Linear:
    """One layer whose output is that of these, in turn."""
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return linear_of(torch.cat([layer.weight for layer in layers]), bias)
