"""Published unit language models as they are: SlamKit's, TWIST's, and any that says which of its tokens are units.

| folder | says so in | unit u | begins | ends |
|---|---|---|---|---|
| SlamKit's (Maimon et al. 2025, arXiv:2502.15814) | `tokeniser_config.json`, if any | u + 2 | token 1 | the same |
| TWIST's (Hassid et al. 2023, arXiv:2305.13009) | `offset` in `config.json` | u + `offset` | no | no |
| any of transformers' | `offset`, `begin`, `end`, `contract` in `textless.json` | u + `offset` | `begin` | `end` |

SlamKit places units after its specials (slamkit, slamkit/tokeniser/unit_tokeniser.py); TWIST has no specials in its
sequences (textlesslib, examples/twist/speech_lm.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import torch
from torch import Tensor, nn

from textless.checks import Between, Count, check
from textless.errors import ContractError, ModelError
from textless.files import write_text
from textless.lm.cache import KVCache
from textless.lm.decoder import Decoder
from textless.lm.fast_decode import LINEAR, FastDecoder, check_precision
from textless.lm.hf.arrange import arrange, can_arrange
from textless.lm.hf.causal import OURS, CausalDecoder, CausalUnitLM, from_causal, replace_vocabulary, vocabulary
from textless.lm.hf.pretrained import SLAMKIT, load_pretrained, without_progress
from textless.model_io import CONFIG, read_json
from textless.types import UnitContract

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KIND = "unit_tokens"  # of a `textless.json`
PADDING = 64  # vocabularies are padded to a multiple of it at most
Token = Annotated[int, Between(0, 2**31 - 1)]
FITS = (
    "what fits: a folder of textless, SlamKit's, TWIST's, GSLM's .pt, or any causal model with a textless.json of "
    '{"kind": "unit_tokens", "offset": …, "begin": …, "end": …}'
)


@dataclass(frozen=True, kw_only=True)
class UnitTokens:
    """Which tokens of a model are the units.

    Attributes:
        offset: unit u is token offset + u.
        begin, end: tokens before and after every sequence, None where there is none.
        contract: of the units, as far as it is known.
    """

    offset: int
    begin: int | None = None
    end: int | None = None
    contract: UnitContract = UnitContract()


def read_unit_tokens(folder: Path) -> UnitTokens:
    """What a folder says of its units. Raises ModelError where it does not."""
    config, place = read_json(folder / CONFIG), folder / OURS
    if place.is_file():
        entries = read_json(place)
        if entries.get("kind") != KIND:
            raise ModelError(f"{place}: holds a {entries.get('kind')!r} where a {KIND} is wanted")
        try:
            contract = UnitContract.from_dict(entries.get("contract", {}))
        except ContractError as e:
            raise ModelError(f"{place}: {e}") from None
    elif config.get("model_type") == SLAMKIT:
        place = folder / "tokeniser_config.json"
        # Its repositories on the hub lack the file; these are the defaults of its UnitTokeniser.
        theirs = read_json(place) if place.is_file() else {"bos_eos_token_id": 1, "pad_token_id": 0, "num_units": None}
        ends = check(theirs.get("bos_eos_token_id"), Token, f"{place}: bos_eos_token_id")
        padding = check(theirs.get("pad_token_id"), Token, f"{place}: pad_token_id")
        known = Count if place.is_file() else Count | None
        contract = UnitContract(n_units=check(theirs.get("num_units"), known, f"{place}: num_units"))
        entries = {"offset": max(ends, padding) + 1, "begin": ends, "end": ends}
    elif "offset" in config:
        place, contract, entries = folder / CONFIG, UnitContract(), {"offset": config["offset"]}
    else:
        kind = config.get("model_type") or config.get("kind")
        what = f"a {kind!r}" if kind else "a model"
        raise ModelError(f"{folder}: holds {what} that does not say which of its tokens are units; {FITS}")
    optional = {name: entries.get(name) for name in ("begin", "end")}
    for name, value in optional.items():
        check(value, Token | None, f"{place}: {name}")
    return UnitTokens(offset=check(entries.get("offset"), Token, f"{place}: offset"), contract=contract, **optional)


class ForeignLM(CausalDecoder):
    """A published unit language model of `transformers`; it scores and continues as `UnitLM` does.

    Its probabilities are over its whole vocabulary, specials included; only units, and its end, are sampled. It has no
    duration head: a continuation has no durations, nor has the prompt in it. OPT and Llama with its likes (Qwen2,
    Mistral) have a fast path, and with precision `int8` a faster one; others are continued by transformers, in float32.
    `for_training` makes a model of ours of it.

    Args:
        model: it is used, not copied.
        tokens: which of its tokens are units.
        contract: of its units; without n_units in it or in that of `tokens`, all tokens from `offset` on are units.

    Raises:
        ModelError: the model has fewer tokens than that, or cannot be used in this way.
        ContractError: the two contracts differ.
    """

    read: Tensor
    predicted: Tensor
    has_durations = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: UnitTokens,
        contract: UnitContract = UnitContract(),
        *,
        precision: str = "fp32",
    ) -> None:
        if check_precision(precision) != "fp32" and not can_arrange(model):
            kind = model.config.model_type
            raise ModelError(f"precision {precision} is for OPT, Llama, Qwen2 and Mistral; a {kind} continues in fp32")
        contract = _units_of(model, tokens, contract)
        units = range(tokens.offset, tokens.offset + cast("int", contract.n_units))
        super().__init__(model, contract, context=None, max_duration=0)
        self.tokens, self.begins, self.ends = tokens, tokens.begin is not None, tokens.end is not None
        for name, last in (("read", tokens.begin), ("predicted", tokens.end)):
            here = torch.tensor([*units, units.start if last is None else last], device=self.device)
            self.register_buffer(name, here, persistent=False)
        self._try()
        self.precision = precision

    @property
    def embed(self) -> nn.Embedding:  # type: ignore[override]
        return vocabulary(self.model)[0]

    def rows(self, tokens: Tensor) -> Tensor:
        return self.read[tokens]

    def unit_logits(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, n_units + 1) float32: of the next token, -inf for an end that there is not.

        The other tokens are left out; `log_probabilities` counts them.
        """
        return self._masked(self.logits(hidden)[..., self.predicted])

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        return self._masked(torch.log_softmax(self.logits(hidden).double(), -1)[..., self.predicted])

    def _masked(self, values: Tensor) -> Tensor:
        if not self.ends:
            values[..., -1] = -torch.inf
        return values

    def forward_cached(self, tokens: Tensor, cache: KVCache) -> Tensor:
        if can_arrange(self.model):
            return Decoder.forward_cached(self, tokens, cache)
        return super().forward_cached(tokens, cache)

    def fast_decoder(self) -> FastDecoder:
        return arrange(self.model, LINEAR[self.precision], self.rows)

    def for_training(self, contract: UnitContract | None = None) -> CausalUnitLM:
        """A model of ours: its vocabulary is the units and `</s>`, and it has a fresh duration head. It takes this
        model's weights, which cannot be used afterwards. `contract`: of its units; by default this model's.

        The units' embeddings are kept. `</s>` has that of `begin`, and in an output of its own that of `end`; where
        there is only one of the two, that one, and where there is none, the mean of the units'.
        """
        begin, end, units = self.tokens.begin, self.tokens.end, self.read[:-1]

        def kept(weight: Tensor, first: int | None, second: int | None) -> Tensor:
            ours, token = weight.detach()[units], second if first is None else first
            return torch.cat([ours, (ours.mean(0) if token is None else weight.detach()[token])[None]])

        embeddings, output = vocabulary(self.model)
        assert output is not None  # for mypy: it was checked
        new = [kept(embeddings.weight, begin, end)]
        if output.weight is not embeddings.weight:
            new.append(kept(output.weight, end, begin))
        bias = None if getattr(output, "bias", None) is None else kept(output.bias, end, begin)
        replace_vocabulary(self.model, new, bias)
        return CausalUnitLM(self.model, contract or self.contract).eval()

    def save(self, folder: Path | str) -> None:
        """Write a folder of transformers with the `textless.json` that says which tokens are units."""
        self.save_merges(folder)
        with without_progress():
            self.model.save_pretrained(folder)
        write_unit_tokens(Path(folder), replace(self.tokens, contract=self.contract))


def _units_of(model: PreTrainedModel, tokens: UnitTokens, contract: UnitContract) -> UnitContract:
    """The contract of a model's units, with their number. Raises as `ForeignLM`."""
    if name := contract.conflict(tokens.contract):
        theirs, given = getattr(tokens.contract, name), getattr(contract, name)
        raise ContractError(f"the language model has {name} {theirs!r} where the contract says {given!r}")
    known = tokens.contract.to_dict() | {k: v for k, v in contract.to_dict().items() if v is not None}
    kind, rows = model.config.model_type, min(len(v.weight) for v in vocabulary(model) if v is not None)
    left = rows - tokens.offset
    n_units = contract.n_units or tokens.contract.n_units or max(1, left)
    if tokens.contract.n_units is None and not n_units <= left < n_units + PADDING:
        raise ContractError(f"the language model has {left} units where the contract says {n_units}")
    units = range(tokens.offset, tokens.offset + n_units)
    if units.stop > rows:
        raise ModelError(f"the {kind} has {rows} tokens, too few for {n_units} units from token {units.start} on")
    for what, token in (("begin", tokens.begin), ("end", tokens.end)):
        if token is not None and (token in units or token >= rows):
            raise ModelError(f"{what} is token {token}, which is {'a unit' if token in units else 'not there'}")
    return UnitContract.from_dict({**known, "n_units": n_units})


def write_unit_tokens(folder: Path, tokens: UnitTokens) -> None:
    """Say in a folder of transformers which tokens are units, see `read_unit_tokens`."""
    content = {"kind": KIND, **asdict(tokens), "contract": tokens.contract.to_dict()}
    write_text(folder / OURS, json.dumps(content, indent=1) + "\n")


def says_units(folder: Path) -> bool:
    """Whether a folder of transformers says which of its tokens are units. Raises ModelError if it is none."""
    config = read_json(folder / CONFIG)
    if (folder / OURS).is_file():
        return read_json(folder / OURS).get("kind") == KIND
    return config.get("model_type") == SLAMKIT or "offset" in config


def load_foreign(folder: Path, contract: UnitContract = UnitContract(), *, precision: str = "fp32") -> ForeignLM:
    """The published unit language model of a folder, on the CPU, in evaluation mode, in float32.

    Args:
        contract: of its units, as far as it is known.
        precision: of continuations: `fp32`, or `int8`, see `UnitLM`.

    Raises:
        ModelError: the folder is missing, damaged, does not say which tokens are units, or cannot be used.
        ContractError: the contract says something else than the folder.
    """
    tokens = read_unit_tokens(folder)
    model = load_pretrained(folder)
    try:
        return ForeignLM(model, tokens, contract, precision=precision).eval()
    except (ModelError, ContractError) as e:
        raise type(e)(f"{folder}: {e}") from None


def load_start(folder: Path, contract: UnitContract, *, context: int, seed: int) -> Decoder:
    """A language model to go on training from: a published one over units as it is, of text with new embeddings.

    Raises as `load_foreign` and `from_causal`.
    """
    if says_units(folder):
        return load_foreign(folder, contract)
    return from_causal(folder, contract, context=context, seed=seed)
