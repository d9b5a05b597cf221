"""Metrics of units, of language models, and of synthesised speech.

| module | |
|---|---|
| `abx_error`, `items` | ABX discriminability, and its item files |
| `pnmi`, `bitrate`, `alignments` | units against phones, and what they cost; alignments that give the phones |
| `discovery`, `boundaries`, `term_discovery` | units mapped to phones: error rate, boundaries; fragments in classes |
| `units`, `tokenizer` | all metrics of units, and of audio under a tokenizer |
| `robustness`, `perturb` | unit edit distance under perturbations of the audio |
| `speech`, `mcd`, `asr` | synthesised speech against the original: mel-cepstral distortion, word error rate … |
| `continuations`, `bleu`, `judge` | what continuations say: self-BLEU, auto-BLEU, VERT, perplexity of a text model |
| `lm`, `diversity` | likelihoods, pairs and controls of language models; self-BLEU and loops of their samples |
| `probing`, `similarity`, `layers` | which labels features hold: linear probes, CKA and CCA, of each layer |
| `groups` | metrics of each speaker, or other group of files, and the largest gap |
| `labelled`, `encoded` | frames with labels, and all layers of an encoder, for probes |
| `difference`, `bootstrap` | paired differences of two systems, and confidence intervals |
| `align` | forced alignment |
| `dtw`, `edit_distance` | dynamic time warping, Levenshtein distance |
| `metric`, `table` | how a metric is declared, and printed |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textless.lazy import attach

if TYPE_CHECKING:
    from textless.metrics.abx_error import abx as abx
    from textless.metrics.alignments import read_alignments as read_alignments
    from textless.metrics.asr import load_recogniser as load_recogniser
    from textless.metrics.bleu import auto_bleu as auto_bleu
    from textless.metrics.bleu import self_bleu as self_bleu
    from textless.metrics.continuations import measure_continuations as measure_continuations
    from textless.metrics.continuations import read_transcripts as read_transcripts
    from textless.metrics.discovery import unit_discovery as unit_discovery
    from textless.metrics.items import items_of as items_of
    from textless.metrics.items import read_items as read_items
    from textless.metrics.judge import Judge as Judge
    from textless.metrics.pnmi import unit_quality as unit_quality
    from textless.metrics.probing import probe as probe
    from textless.metrics.similarity import linear_cka as linear_cka
    from textless.metrics.similarity import pwcca as pwcca
    from textless.metrics.term_discovery import read_segments as read_segments
    from textless.metrics.term_discovery import terms as terms
    from textless.metrics.units import measure_units as measure_units

# Imported on first use, so that a package costs nothing that is not needed.
_WHERE = {
    "abx": "textless.metrics.abx_error",
    "read_items": "textless.metrics.items",
    "items_of": "textless.metrics.items",
    "read_alignments": "textless.metrics.alignments",
    "load_recogniser": "textless.metrics.asr",
    "self_bleu": "textless.metrics.bleu",
    "auto_bleu": "textless.metrics.bleu",
    "measure_continuations": "textless.metrics.continuations",
    "read_transcripts": "textless.metrics.continuations",
    "Judge": "textless.metrics.judge",
    "unit_discovery": "textless.metrics.discovery",
    "unit_quality": "textless.metrics.pnmi",
    "read_segments": "textless.metrics.term_discovery",
    "terms": "textless.metrics.term_discovery",
    "probe": "textless.metrics.probing",
    "linear_cka": "textless.metrics.similarity",
    "pwcca": "textless.metrics.similarity",
    "measure_units": "textless.metrics.units",
}
__all__ = sorted(_WHERE)
__getattr__, __dir__ = attach(__name__, _WHERE)
