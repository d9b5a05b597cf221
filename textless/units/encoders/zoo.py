"""The model zoo: published encoders and codebooks by name, in one table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from textless.audio.fetch import fetch, fetch_repository
from textless.errors import ModelError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Published:
    """Source and settings of an encoder, or of an encoder with its codebook.

    Attributes:
        encoder: repository of the Hugging Face hub (`owner/name`), or the URL of a fairseq checkpoint.
        revision: commit of the repository; None is its main branch.
        layer: the recommended one for units, 1-based, before any final norm; None where none is recommended.
        normalisation: of the waveform: `none`, `layer_norm_1e-5` (fairseq) or `zscore_1e-7` (transformers).
        codebook: URL; None where there is none for this encoder.
        codebook_sha256, encoder_sha256: where published, else None; a repository is identified by its revision instead.
        n_units: size of the codebook.
        frame_rate: frames a second.
        licence: as its page states it, or "not published"; of the encoder, then of the codebook where they differ.
        source: page or paper that describes it.
    """

    encoder: str
    revision: str | None = None
    layer: int | None = None
    normalisation: str
    codebook: str | None = None
    codebook_sha256: str | None = None
    encoder_sha256: str | None = None
    n_units: int | None = None
    frame_rate: float = 50.0
    licence: str
    source: str


def published(name: str) -> Published:
    """An entry of the table. Raises ModelError for an unknown name."""
    if name not in PUBLISHED:
        raise ModelError(f"no published model {name!r}{did_you_mean(name, PUBLISHED)}")
    return PUBLISHED[name]


def fetch_encoder(name: str) -> Path:
    """The folder or checkpoint of a published encoder, from the cache or the network. Raises ModelError as `fetch`."""
    entry = published(name)
    if "://" in entry.encoder:
        return fetch(entry.encoder, sha256=entry.encoder_sha256, progress=_on_terminal)
    return fetch_repository(entry.encoder, revision=entry.revision)


def fetch_codebook(name: str) -> Path:
    """The file of a published codebook, from the cache or the network.

    Raises ModelError as `fetch`, and when there is none.
    """
    entry = published(name)
    if entry.codebook is None:
        with_one = [k for k, v in PUBLISHED.items() if v.codebook and v.encoder == entry.encoder]
        hint = f"take {' or '.join(with_one)}" if with_one else "train one with the step kmeans"
        raise ModelError(f"{name} is an encoder without a codebook; {hint}")
    return fetch(entry.codebook, sha256=entry.codebook_sha256, progress=_on_terminal)


def _on_terminal(done: int, total: int, what: str) -> None:
    """Progress of a large download on a terminal; repositories have huggingface_hub's own bars."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{done}/{total} {what}" if done < total else "\r\x1b[K", end="", file=sys.stderr, flush=True)


# Normalisation is that of pre-training (task.normalize of the recipe), since codebooks are made on such frames. A
# repository's preprocessor_config.json is no guide: base models and wav2vec2-large were trained on waveforms as they
# are, but their files have transformers' default, do_normalize true.
#
# Not here: GSLM's codebooks for wav2vec 2.0 large, since its reader counts layers from 0 and leaves out the
# normalisation that the model was trained with; and the faiss index of mHuBERT-147, which belongs to an earlier
# iteration of the model.

_FAIR = "https://dl.fbaipublicfiles.com"
_GSLM = "https://github.com/facebookresearch/fairseq/tree/main/examples/textless_nlp/gslm/speech2unit"
_TEXTLESSLIB = "https://github.com/facebookresearch/textlesslib"  # its checkpoint_manager publishes the hashes
_EXPRESSO = f"{_TEXTLESSLIB}/tree/main/examples/expresso"
_UNILM = "MIT in microsoft/unilm, CC-BY-SA-3.0 by the link on its card"

_HUBERT = Published(
    encoder="facebook/hubert-base-ls960",
    revision="dba3bb02fda4248b6e082697eee756de8fe8aa8a",
    layer=6,
    normalisation="none",
    licence="Apache-2.0",
    source="https://huggingface.co/facebook/hubert-base-ls960",
)
_HUBERT_9 = replace(_HUBERT, layer=9)
_VOXPOPULI = Published(
    encoder=f"{_FAIR}/hubert/mhubert_base_vp_en_es_fr_it3.pt",
    encoder_sha256="23527cd6311a6617bfa199f574e2eed478cd6a58a634f4007165c10ec0019832",
    layer=11,
    normalisation="none",
    licence="MIT",
    source="https://github.com/facebookresearch/fairseq/blob/main/examples/speech_to_speech/docs/textless_s2st_real_data.md",
)
_MIX = Published(
    encoder=f"{_FAIR}/hubert/mhubert_base_vp_mls_cv_8lang_it3.pt",
    encoder_sha256="fa82eaccb557465f4732662e3a744c30c953059147ac6a4c92f1f3e0daeda61e",
    layer=12,
    normalisation="none",  # as the recipe of HuBERT base has it; the checkpoint's task.normalize decides
    licence="not published",
    source=_EXPRESSO,
)
_TWIST = Published(
    encoder="slprl/mhubert-base-25hz",
    revision="a319086e1d343190047d02b7f81133fb310c1b90",
    layer=11,
    normalisation="none",
    frame_rate=25.0,
    licence="MIT",
    source="https://huggingface.co/slprl/mhubert-base-25hz",
)


def _hub(encoder: str, *, normalisation: str, licence: str, revision: str | None = None) -> Published:
    source = f"https://huggingface.co/{encoder}"
    return Published(encoder=encoder, revision=revision, normalisation=normalisation, licence=licence, source=source)


PUBLISHED: dict[str, Published] = {
    "hubert-base-ls960": _HUBERT,
    "hubert-base-ls960/km50": replace(
        _HUBERT,
        codebook=f"{_FAIR}/textless_nlp/gslm/hubert/km50/km.bin",
        codebook_sha256="d01a7d5bc2c54b7b5f25f321ba525b4d230b06e3927f90bad0394198bc89f494",
        n_units=50,
        licence="Apache-2.0; codebook MIT",
        source=_GSLM,
    ),
    "hubert-base-ls960/km100": replace(
        _HUBERT,
        codebook=f"{_FAIR}/textless_nlp/gslm/hubert/km100/km.bin",
        codebook_sha256="f14a3104615485381fc489701d6761c9abbdbb0d43607cf55518a1e2891023fe",
        n_units=100,
        licence="Apache-2.0; codebook MIT",
        source=_GSLM,
    ),
    "hubert-base-ls960/km200": replace(
        _HUBERT,
        codebook=f"{_FAIR}/textless_nlp/gslm/hubert/km200/km.bin",
        codebook_sha256="b3c46c9cdd1707ad852dd53c359aa73942e79d53c432a9a8a419ed046408024b",
        n_units=200,
        licence="Apache-2.0; codebook MIT",
        source=_GSLM,
    ),
    "hubert-base-ls960/km500": replace(
        _HUBERT,
        codebook=f"{_FAIR}/textless_nlp/gslm/hubert/km500/km.bin",
        codebook_sha256="411c8668e1314751404f58636f935fc73540a6793890435da4a8ffadf157398e",
        n_units=500,
        licence="Apache-2.0; codebook not published",
        source=_TEXTLESSLIB,
    ),
    "hubert-base-ls960-layer-9": _HUBERT_9,
    "hubert-base-ls960-layer-9/km500": replace(
        _HUBERT_9,
        codebook=f"{_FAIR}/hubert/hubert_base_ls960_L9_km500.bin",
        codebook_sha256="4450dcbc90aa7d0553306a4b0fafef35c9b3c840468f02969273dfbb9db89a23",
        n_units=500,
        licence="Apache-2.0; codebook not published",
        source=_TEXTLESSLIB,
    ),
    "hubert-base-ls960-layer-9/km2000-expresso": replace(
        _HUBERT_9,
        codebook=f"{_FAIR}/textless_nlp/expresso/checkpoints/hubert_base_ls960_L9_km2000_expresso.bin",
        codebook_sha256="ae73e3cc7ea0426faf43c8bb67fc3846a0f8708232526d045a101836e8c7929f",
        n_units=2000,
        licence="Apache-2.0; codebook not published",
        source=_EXPRESSO,
    ),
    "hubert-large-ll60k": _hub("facebook/hubert-large-ll60k", normalisation="layer_norm_1e-5", licence="Apache-2.0"),
    "hubert-xlarge-ll60k": _hub("facebook/hubert-xlarge-ll60k", normalisation="layer_norm_1e-5", licence="Apache-2.0"),
    "mhubert-base-vp_en_es_fr": _VOXPOPULI,
    "mhubert-base-vp_en_es_fr/km1000": replace(
        _VOXPOPULI,
        codebook=f"{_FAIR}/hubert/mhubert_base_vp_en_es_fr_it3_L11_km1000.bin",
        codebook_sha256="c70f5416c38044d0c20e33fdeedf4533974a8ac4029985cdef3b755038381a0b",
        n_units=1000,
    ),
    "mhubert-base-vp_mls_cv_8lang": _MIX,
    "mhubert-base-vp_mls_cv_8lang/km2000": replace(
        _MIX,
        codebook=f"{_FAIR}/hubert/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000.bin",
        codebook_sha256="05de230870427dcdce334d29922ccce354c7e7d0574edc645f5daed47b1ccc18",
        n_units=2000,
    ),
    "mhubert-base-vp_mls_cv_8lang/km2000-expresso": replace(
        _MIX,
        codebook=f"{_FAIR}/textless_nlp/expresso/checkpoints/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000_expresso.bin",
        codebook_sha256="bda2dbf5fe42bf59359799b281498a9d7fd0a9ec703d6dc54a4a4a0ff70a4e22",
        n_units=2000,
    ),
    "mhubert-base-25hz": _TWIST,
    "mhubert-base-25hz/km500": replace(
        _TWIST,
        codebook=f"{_FAIR}/textless_nlp/twist/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin",
        codebook_sha256="03cc04a9c24fec4285e73e709c485756d8f116aa8e724eac555de6a7cf8d28ad",
        n_units=500,
        licence="MIT; codebook not published",
        source=f"{_TEXTLESSLIB}/tree/main/examples/twist",
    ),
    "mhubert-147": _hub(  # normalised in training, unlike other base models
        "utter-project/mHuBERT-147",
        revision="3c4c625e915d7e761d5203a6963129e7c1ff2eb6",
        normalisation="layer_norm_1e-5",
        licence="CC-BY-NC-SA-4.0",
    ),
    "distilhubert": _hub("ntu-spml/distilhubert", normalisation="none", licence="Apache-2.0"),
    "wav2vec2-base": _hub("facebook/wav2vec2-base", normalisation="none", licence="Apache-2.0"),
    "wav2vec2-large": _hub("facebook/wav2vec2-large", normalisation="none", licence="Apache-2.0"),
    "wav2vec2-large-lv60": _hub("facebook/wav2vec2-large-lv60", normalisation="layer_norm_1e-5", licence="Apache-2.0"),
    "wav2vec2-xls-r-300m": _hub("facebook/wav2vec2-xls-r-300m", normalisation="layer_norm_1e-5", licence="Apache-2.0"),
    "xlsr2-1b-v2/km10000": Published(  # the units of SeamlessM4T
        encoder=f"{_FAIR}/seamlessM4T/models/unit_extraction/xlsr2_1b_v2.pt",
        layer=35,
        normalisation="layer_norm_1e-5",
        codebook=f"{_FAIR}/seamlessM4T/models/unit_extraction/kmeans_10k.npy",
        n_units=10000,
        licence="not published",
        source="https://github.com/facebookresearch/seamless_communication",
    ),
    "wavlm-base": _hub("microsoft/wavlm-base", normalisation="none", licence=_UNILM),
    "wavlm-base-plus": _hub(
        "microsoft/wavlm-base-plus",
        revision="4c66d4806a428f2e922ccfa1a962776e232d487b",
        normalisation="none",
        licence=_UNILM,
    ),
    "wavlm-large": _hub(
        "microsoft/wavlm-large",
        revision="c1423ed94bb01d80a3f5ce5bc39f6026a0f4828c",
        normalisation="layer_norm_1e-5",
        licence=_UNILM,
    ),
    "data2vec-audio-base": _hub("facebook/data2vec-audio-base", normalisation="layer_norm_1e-5", licence="Apache-2.0"),
    # No recipe is published; the normalisation is that of HuBERT base, which has the same group norm in its front end.
    "unispeech-sat-base": _hub(
        "microsoft/unispeech-sat-base",
        revision="ca010627e5d232d9179ebdcd615eaa02cea382ed",
        normalisation="none",
        licence="not published",
    ),
    "w2v-bert-2.0": _hub("facebook/w2v-bert-2.0", normalisation="none", licence="MIT"),  # log-mel, normalised there
}
