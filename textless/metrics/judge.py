"""Perplexity of transcripts under an outside judge: any causal language model of `transformers` with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from textless.errors import CorpusError, ModelError

BATCH = 8  # texts that are scored together


class Judge:
    """A text language model that scores transcripts.

    Texts are scored as GSLM's script does it (fairseq, examples/textless_nlp/gslm/metrics/asr_metrics/ppx.py): in small
    letters, every token given those before it, the first given the model's token for the beginning of a text, else for
    its end; the end itself is not scored. Of a model with neither token, the first token of a text is not scored.

    Args:
        place: a folder of transformers with a tokenizer; or `owner/name` on the hub.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelError: the folder is missing or damaged, holds another kind of model, or has no tokenizer.
    """

    def __init__(self, place: Path | str, device: str = "cpu") -> None:
        from textless.lm.hf.pretrained import find_folder, load_pretrained, load_tokenizer

        self.folder = find_folder(place, "a judge")
        self.model: Any = load_pretrained(self.folder).eval().to(device)
        self.tokenizer: Any = load_tokenizer(self.folder)
        begin = self.tokenizer.bos_token_id
        self.begin = self.tokenizer.eos_token_id if begin is None else begin
        self.longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def nll(self, texts: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Nats of each token of each text, by id: (T,) float64, empty for a text without words.

        Raises:
            CorpusError: a text is longer than what the judge reads. ModelError: the tokenizer is another model's.
        """
        sequences = {name: self._tokens(name, text) for name, text in texts.items()}
        scored = {name: np.empty(0) for name in texts}
        waiting = [(name, tokens) for name, tokens in sequences.items() if len(tokens) > 1]
        for first in range(0, len(waiting), BATCH):
            batch = waiting[first : first + BATCH]
            scored |= zip((name for name, _ in batch), self._score([tokens for _, tokens in batch]), strict=True)
        return scored

    def _tokens(self, name: str, text: str) -> list[int]:
        """The tokens of a text after the one for its beginning."""
        tokens = self.tokenizer(text.strip().lower(), add_special_tokens=False)["input_ids"]
        tokens = tokens if self.begin is None else [self.begin, *tokens]
        if self.longest and len(tokens) > self.longest:
            raise CorpusError(
                f"{name}: its transcript has {len(tokens)} tokens, and {self.folder} reads {self.longest} at most; "
                "give another judge, or shorter continuations"
            )
        if tokens and max(tokens) >= (size := self.model.get_input_embeddings().num_embeddings):
            raise ModelError(
                f"{self.folder}: its tokenizer makes token {max(tokens)} of a vocabulary of {size}; "
                "are they of one model?"
            )
        return tokens

    def _score(self, batch: list[list[int]]) -> Iterator[np.ndarray]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = pad_sequence([torch.tensor(tokens) for tokens in batch], batch_first=True).to(self.model.device)
        lengths = torch.tensor([[len(tokens)] for tokens in batch], device=rows.device)
        mask = (torch.arange(rows.shape[1], device=rows.device) < lengths).long()
        with torch.inference_mode():
            logits = self.model(input_ids=rows, attention_mask=mask).logits
            for row, tokens in enumerate(batch):
                predicted = torch.log_softmax(logits[row, : len(tokens) - 1].double(), -1)
                yield -predicted.gather(1, rows[row, 1 : len(tokens), None])[:, 0].cpu().numpy()
