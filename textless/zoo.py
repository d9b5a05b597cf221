"""The model zoo: published encoders, codebooks, language models and vocoders, and the chains that they form, by name.

What the page named in `source` does not publish (a hash, a licence, a size) is left out, not guessed.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

from textless.audio.archives import fetch_unpacked, unpacked
from textless.audio.fetch import cached, fetch, fetch_repository
from textless.errors import ModelError, did_you_mean
from textless.types import UnitContract

LARGE = 200  # MB; the size of a larger download is said before it begins
ARCHIVES = (".tgz", ".zip")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file, archive or repository.

    Attributes:
        place: URL of a file or of an archive, or a repository of the Hugging Face hub (`owner/name`).
        sha256: of the file, where published; a repository is identified by its revision instead.
        revision: commit of the repository; None is its main branch.
        also: files that are read with it, from the same folder: (name there, URL, sha256 where published).
        size: of the download, in MB, where published.
        licence: as its page states it, or "not published".
        source: page or paper that describes it.
    """

    place: str
    sha256: str | None = None
    revision: str | None = None
    also: tuple[tuple[str, str, str | None], ...] = ()
    size: int | None = None
    licence: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Encoder(Part):
    """An encoder.

    Attributes:
        layer: the recommended one for units, 1-based, before any final norm; None where none is recommended.
        tap: what of that layer its units are made of, see `UnitContract`; None is the output of the block.
        normalisation: of the waveform: `none`, `layer_norm_1e-5` (fairseq) or `zscore_1e-7` (transformers).
        frame_rate: frames a second.
    """

    layer: int | None = None
    tap: str | None = None
    normalisation: str
    frame_rate: float = 50.0


@dataclass(frozen=True, kw_only=True)
class Codebook(Part):
    """A quantizer of an encoder's frames.

    Attributes:
        n_units: its size.
        window: of the frames that it was made on, if this is not the encoder's default; see `load_encoder`.
    """

    n_units: int
    window: float | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """A chain: an encoder, and what belongs to its units."""

    encoder: Encoder
    codebook: Codebook | None = None
    lm: Part | None = None
    vocoder: Part | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that it has, by name: `encoder`, `codebook`, `lm`, `vocoder`."""
        return {f.name: part for f in fields(self) if (part := getattr(self, f.name)) is not None}

    @property
    def contract(self) -> UnitContract:
        """Of its units, as far as the table says."""
        return UnitContract(
            layer=self.encoder.layer,
            tap=self.encoder.tap,
            window=self.codebook.window if self.codebook else None,
            normalisation=self.encoder.normalisation,
            sample_rate=16000,
            frame_rate=self.encoder.frame_rate,
            n_units=self.codebook.n_units if self.codebook else None,
        )


def published(name: str) -> Published:
    """An entry of the table. Raises ModelError for an unknown name."""
    if name not in PUBLISHED:
        raise ModelError(f"no published model {name!r}{did_you_mean(name, PUBLISHED)}")
    return PUBLISHED[name]


def part_of(name: str, part: str) -> Part:
    """A part of a chain. Raises ModelError for an unknown name, and for a chain without it."""
    parts = published(name).parts
    if part not in parts:
        raise ModelError(f"{name} has no {part}; {_remedy(name, part)}")
    return parts[part]


def fetch_part(name: str, part: str) -> Path:
    """The file or folder of a part of a chain, from the cache or the network.

    Archives are unpacked. Before a download, standard error gets a line with its size if that is more than `LARGE`, and
    one if its licence is non-commercial.

    Raises ModelError as `fetch`, `fetch_unpacked` and `fetch_repository`; when the chain has no such part; when an
    archive holds no model.
    """
    chosen, progress = part_of(name, part), _Download(f"{part} of {name}")
    if "-NC" in chosen.licence and local(chosen) is None:
        print(f"{name}: the {part} is not for commercial use ({chosen.licence})", file=sys.stderr)
    if "://" not in chosen.place:
        return fetch_repository(chosen.place, revision=chosen.revision, progress=progress)
    if chosen.place.endswith(ARCHIVES):
        return _model_in(fetch_unpacked(chosen.place, sha256=chosen.sha256, progress=progress))
    path = fetch(chosen.place, sha256=chosen.sha256, progress=progress)
    for file, url, sha256 in chosen.also:
        fetch(url, sha256=sha256, to=path.with_name(file))
    return path


def fetch_encoder(name: str) -> Path:
    """The folder or checkpoint of a published encoder. Raises ModelError as `fetch_part`."""
    return fetch_part(name, "encoder")


def fetch_codebook(name: str) -> Path:
    """The file of a published codebook. Raises ModelError as `fetch_part`."""
    return fetch_part(name, "codebook")


def contract_of(source: Path | str) -> UnitContract:
    """Of the units of a chain, as far as the table says; of any other source, nothing is known."""
    name = str(source)
    return PUBLISHED[name].contract if name in PUBLISHED and not Path(name).exists() else UnitContract()


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository of the hub, `OWNER/NAME`, and is no path to something here."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


def resolve(source: Path | str, part: str) -> Path:
    """The file or folder of a language model or vocoder.

    Args:
        source: a path; a published name, or `OWNER/NAME` on the hub, which is fetched.

    Raises ModelError as `fetch_part`. Anything else is returned as a path.
    """
    name = str(source)
    if Path(source).exists():
        return Path(source)
    if name in PUBLISHED:
        return fetch_part(name, part)
    if not is_repository(name):
        return Path(source)
    try:
        return fetch_repository(name)
    except ModelError as e:
        raise ModelError(f"{name}: no such file or folder here, and on the hub: {e}") from None


def local(part: Part) -> Path | None:
    """Where a part is in the cache, if it is complete."""
    if part.place.endswith(ARCHIVES):
        return folder if (folder := unpacked(part.place)).is_dir() else None
    path = cached(part.place, part.revision)
    return path if path and all(path.with_name(file).is_file() for file, *_ in part.also) else None


def _model_in(folder: Path) -> Path:
    """What an archive holds: a folder with a configuration, or a fairseq checkpoint next to its dictionary."""
    configs = sorted(folder.rglob("config.json"), key=lambda path: len(path.parts))
    checkpoints = [path for path in sorted(folder.rglob("*.pt")) if path.with_name("dict.txt").is_file()]
    best = [path for path in checkpoints if path.name == "checkpoint_best.pt"]
    if not configs and not checkpoints:
        raise ModelError(f"{folder}: holds neither a config.json nor a checkpoint with its dict.txt; remove it")
    return configs[0].parent if configs else (best or checkpoints)[0]


def _remedy(name: str, part: str) -> str:
    """What has the part that a chain lacks."""
    entry = PUBLISHED[name]
    same = [
        other
        for other, theirs in PUBLISHED.items()
        if part in theirs.parts and theirs.encoder == entry.encoder and entry.codebook in (None, theirs.codebook)
    ]
    if same:
        return f"take {' or '.join(same)}"
    return "train one with the step kmeans" if part == "codebook" else f"give one with --{part}"


class _Download:
    """Progress of a download: its size in a line of its own if it is large; then, on a terminal, a line that moves."""

    def __init__(self, what: str) -> None:
        self.what, self.begun = what, False

    def __call__(self, done: int, total: int, what: str) -> None:
        if not self.begun and total > LARGE:
            print(f"fetching the {self.what}: {total} MB", file=sys.stderr)
        self.begun = True
        if sys.stderr.isatty() and done:
            print(f"\r\x1b[K{done}/{total} {what}" if done < total else "\r\x1b[K", end="", file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------------------------------------- the parts

_FAIR = "https://dl.fbaipublicfiles.com"
_GSLM = f"{_FAIR}/textless_nlp/gslm"
_TWIST = f"{_FAIR}/textless_nlp/twist"
_EXPRESSO = f"{_FAIR}/textless_nlp/expresso/checkpoints"
_S2ST = f"{_FAIR}/fairseq/speech_to_speech/vocoder/code_hifigan"
_FAIRSEQ_PAGE = (
    "https://github.com/facebookresearch/fairseq/tree/main/examples"  # MIT, "the pre-trained models as well"
)
_GSLM_PAGE = f"{_FAIRSEQ_PAGE}/textless_nlp/gslm"
_S2ST_PAGE = f"{_FAIRSEQ_PAGE}/speech_to_speech/docs"
_TEXTLESSLIB = "https://github.com/facebookresearch/textlesslib"  # its checkpoint_manager publishes the hashes
_TWIST_PAGE = f"{_TEXTLESSLIB}/tree/main/examples/twist"
_EXPRESSO_PAGE = f"{_TEXTLESSLIB}/tree/main/examples/expresso"
_SPIDR_PAGE = "https://github.com/facebookresearch/spidr"
_UNILM = "MIT in microsoft/unilm, CC-BY-SA-3.0 by the link on its card"
_UNKNOWN = "not published"


def _hub(
    place: str,
    *,
    normalisation: str,
    licence: str,
    layer: int | None = None,
    frame_rate: float = 50.0,
    revision: str | None = None,
    size: int | None = None,
) -> Encoder:
    return Encoder(
        place=place,
        revision=revision,
        layer=layer,
        normalisation=normalisation,
        frame_rate=frame_rate,
        size=size,
        licence=licence,
        source=f"https://huggingface.co/{place}",
    )


def _hubert(layer: int) -> Encoder:
    return _hub(
        "facebook/hubert-base-ls960",
        revision="dba3bb02fda4248b6e082697eee756de8fe8aa8a",
        layer=layer,
        normalisation="none",
        size=378,
        licence="Apache-2.0",
    )


# Normalisation is that of pre-training (task.normalize of the recipe), since codebooks are made on such frames. A
# repository's preprocessor_config.json is no guide: base models and wav2vec2-large were trained on waveforms as they
# are, but their files have transformers' default, do_normalize true.
ENCODERS = {
    "hubert-base-ls960": _hubert(6),
    "hubert-base-ls960-layer-9": _hubert(9),
    "hubert-large-ll60k": _hub(
        "facebook/hubert-large-ll60k", normalisation="layer_norm_1e-5", size=1260, licence="Apache-2.0"
    ),
    "hubert-xlarge-ll60k": _hub(
        "facebook/hubert-xlarge-ll60k", normalisation="layer_norm_1e-5", size=3850, licence="Apache-2.0"
    ),
    "mhubert-base-vp_en_es_fr": Encoder(
        place=f"{_FAIR}/hubert/mhubert_base_vp_en_es_fr_it3.pt",
        sha256="23527cd6311a6617bfa199f574e2eed478cd6a58a634f4007165c10ec0019832",
        layer=11,
        normalisation="none",
        licence="MIT",
        source=f"{_S2ST_PAGE}/textless_s2st_real_data.md",
    ),
    "mhubert-base-vp_mls_cv_8lang": Encoder(
        place=f"{_FAIR}/hubert/mhubert_base_vp_mls_cv_8lang_it3.pt",
        sha256="fa82eaccb557465f4732662e3a744c30c953059147ac6a4c92f1f3e0daeda61e",
        layer=12,
        normalisation="none",  # as the recipe of HuBERT base has it; the checkpoint's task.normalize decides
        licence=_UNKNOWN,
        source=_EXPRESSO_PAGE,
    ),
    "mhubert-base-25hz": _hub(
        "slprl/mhubert-base-25hz",
        revision="a319086e1d343190047d02b7f81133fb310c1b90",
        layer=11,
        normalisation="none",
        frame_rate=25.0,
        size=380,
        licence="MIT",
    ),
    "mhubert-147": _hub(  # normalised in training, unlike other base models
        "utter-project/mHuBERT-147",
        revision="3c4c625e915d7e761d5203a6963129e7c1ff2eb6",
        normalisation="layer_norm_1e-5",
        size=378,
        licence="CC-BY-NC-SA-4.0",
    ),
    "cpc-big-ll6k": Encoder(  # GSLM's; the second of its four LSTM layers (textlesslib's DENSE_MODELS)
        place=f"{_GSLM}/cpc/cpc_big_ll6kh_top_ctc.pt",
        sha256="73155dad5d7c986fe7b7f548050060a8e9cc9a0ffd111a22932f38c3e617c5b8",
        layer=2,
        normalisation="none",
        frame_rate=100.0,
        licence="MIT",
        source=f"{_GSLM_PAGE}/speech2unit",
    ),
    "spidr-base": Encoder(  # layer 6: the default of its paper/extract_features.py
        place=f"{_FAIR}/shared/devai/assets/models/spidr_base.pt",
        layer=6,
        tap="ffn",
        normalisation="layer_norm_1e-5",
        licence="CC-BY-NC-4.0",
        source=_SPIDR_PAGE,
    ),
    "dinosr-base": Encoder(
        place=f"{_FAIR}/shared/devai/assets/models/dinosr_base_reproduced.pt",
        normalisation="layer_norm_1e-5",
        licence="CC-BY-NC-4.0",
        source=_SPIDR_PAGE,
    ),
    "distilhubert": _hub("ntu-spml/distilhubert", normalisation="none", licence="Apache-2.0"),
    "wav2vec2-base": _hub("facebook/wav2vec2-base", normalisation="none", size=380, licence="Apache-2.0"),
    "wav2vec2-large": _hub("facebook/wav2vec2-large", normalisation="none", licence="Apache-2.0"),
    "wav2vec2-large-lv60": _hub("facebook/wav2vec2-large-lv60", normalisation="layer_norm_1e-5", licence="Apache-2.0"),
    "wav2vec2-xls-r-300m": _hub("facebook/wav2vec2-xls-r-300m", normalisation="layer_norm_1e-5", licence="Apache-2.0"),
    "xlsr2-1b-v2": Encoder(  # of the units of SeamlessM4T
        place=f"{_FAIR}/seamlessM4T/models/unit_extraction/xlsr2_1b_v2.pt",
        layer=35,
        normalisation="layer_norm_1e-5",
        licence=_UNKNOWN,
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
        licence=_UNKNOWN,
    ),
    "w2v-bert-2.0": _hub("facebook/w2v-bert-2.0", normalisation="none", licence="MIT"),  # log-mel, normalised there
}


def _km(n_units: int, place: str, sha256: str | None, licence: str, source: str) -> Codebook:
    return Codebook(n_units=n_units, place=place, sha256=sha256, licence=licence, source=source)


def _gslm_km(n_units: int, encoder: str, sha256: str) -> Codebook:
    codebook = _km(n_units, f"{_GSLM}/{encoder}/km{n_units}/km.bin", sha256, "MIT", f"{_GSLM_PAGE}/speech2unit")
    return replace(codebook, window=4.0) if encoder == "cpc" else codebook  # its reader's chunks of 64 000 samples


# By the name of their encoder, `/km`, and their size; a head by that of its block.
#
# Not here: GSLM's codebooks for wav2vec 2.0 large, since its reader counts layers from 0 and leaves out the
# normalisation that the model was trained with; and the faiss index of mHuBERT-147, which belongs to an earlier
# iteration of the model.
CODEBOOKS = {
    "hubert-base-ls960/km50": _gslm_km(
        50, "hubert", "d01a7d5bc2c54b7b5f25f321ba525b4d230b06e3927f90bad0394198bc89f494"
    ),
    "hubert-base-ls960/km100": _gslm_km(
        100, "hubert", "f14a3104615485381fc489701d6761c9abbdbb0d43607cf55518a1e2891023fe"
    ),
    "hubert-base-ls960/km200": _gslm_km(
        200, "hubert", "b3c46c9cdd1707ad852dd53c359aa73942e79d53c432a9a8a419ed046408024b"
    ),
    "hubert-base-ls960/km500": _km(
        500,
        f"{_GSLM}/hubert/km500/km.bin",
        "411c8668e1314751404f58636f935fc73540a6793890435da4a8ffadf157398e",
        _UNKNOWN,
        _TEXTLESSLIB,
    ),
    "hubert-base-ls960-layer-9/km500": _km(
        500,
        f"{_FAIR}/hubert/hubert_base_ls960_L9_km500.bin",
        "4450dcbc90aa7d0553306a4b0fafef35c9b3c840468f02969273dfbb9db89a23",
        _UNKNOWN,
        _TEXTLESSLIB,
    ),
    "hubert-base-ls960-layer-9/km2000-expresso": _km(
        2000,
        f"{_EXPRESSO}/hubert_base_ls960_L9_km2000_expresso.bin",
        "ae73e3cc7ea0426faf43c8bb67fc3846a0f8708232526d045a101836e8c7929f",
        _UNKNOWN,
        _EXPRESSO_PAGE,
    ),
    "mhubert-base-vp_en_es_fr/km1000": _km(
        1000,
        f"{_FAIR}/hubert/mhubert_base_vp_en_es_fr_it3_L11_km1000.bin",
        "c70f5416c38044d0c20e33fdeedf4533974a8ac4029985cdef3b755038381a0b",
        "MIT",
        f"{_S2ST_PAGE}/textless_s2st_real_data.md",
    ),
    "mhubert-base-vp_mls_cv_8lang/km2000": _km(
        2000,
        f"{_FAIR}/hubert/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000.bin",
        "05de230870427dcdce334d29922ccce354c7e7d0574edc645f5daed47b1ccc18",
        _UNKNOWN,
        _EXPRESSO_PAGE,
    ),
    "mhubert-base-vp_mls_cv_8lang/km2000-expresso": _km(
        2000,
        f"{_EXPRESSO}/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000_expresso.bin",
        "bda2dbf5fe42bf59359799b281498a9d7fd0a9ec703d6dc54a4a4a0ff70a4e22",
        _UNKNOWN,
        _EXPRESSO_PAGE,
    ),
    "mhubert-base-25hz/km500": _km(
        500,
        f"{_TWIST}/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin",
        "03cc04a9c24fec4285e73e709c485756d8f116aa8e724eac555de6a7cf8d28ad",
        _UNKNOWN,
        _TWIST_PAGE,
    ),
    "cpc-big-ll6k/km50": _gslm_km(50, "cpc", "c48be5717aebc08169aa5165d58267449b8c8568624a346bb9f4b26eac3b0240"),
    "cpc-big-ll6k/km100": _gslm_km(100, "cpc", "077b96e010b1e87be627ef2bef0f5e5cdaa1c01722aa363b2dc0bb6a638e8b26"),
    "cpc-big-ll6k/km200": _gslm_km(200, "cpc", "2d863d1c6f251d19e667998248c87642ecb5e3ffaa410e9ebfa64341db4f6de2"),
    "cpc-big-ll6k/km500": replace(
        _gslm_km(500, "cpc", "35398f665dff06801a7bf1e595bc176711ed751d554e64d999dc42f1dd106561"),
        licence=_UNKNOWN,
        source=_TEXTLESSLIB,
    ),
    # Its own head, of the block in the encoder's file: paper/results/units-codebooks-spidr-l6 are its units.
    "spidr-base/head6": _km(
        256, f"{_FAIR}/shared/devai/assets/models/spidr_base.pt", None, "CC-BY-NC-4.0", _SPIDR_PAGE
    ),
    "xlsr2-1b-v2/km10000": _km(
        10000,
        f"{_FAIR}/seamlessM4T/models/unit_extraction/kmeans_10k.npy",
        None,
        _UNKNOWN,
        "https://github.com/facebookresearch/seamless_communication",
    ),
}


def _gslm_lm(encoder: str, n_units: int) -> Part:
    place = f"{_GSLM}/{encoder}/lm_km{n_units}/{encoder}{n_units}_lm.tgz"
    return Part(place=place, licence="MIT", source=f"{_GSLM_PAGE}/ulm")


def _twist_lm(size: str) -> Part:
    return Part(place=f"{_TWIST}/lms/TWIST-{size}.zip", licence=_UNKNOWN, source=_TWIST_PAGE)


def _slam_lm(place: str) -> Part:
    return Part(place=place, size=1430, licence="MIT", source=f"https://huggingface.co/{place}")


def _s2st_voice(name: str, page: str) -> Part:
    config = ("config.json", f"{_S2ST}/{name}/config.json", None)
    place = f"{_S2ST}/{name}/g_00500000"
    return Part(place=place, also=(config,), licence="MIT", source=f"{_S2ST_PAGE}/{page}")


def _expresso_voice(units: str, sha256: str, config: str) -> Part:
    folder = f"{_EXPRESSO}/hifigan_expresso_lj_vctk_{units}"
    names = (
        ("config.json", config),
        ("speakers.txt", "2efabb7a4ad786da34fe6fbe99c3906b7abd40b2e01c81b7efde76142ae3d552"),
        ("styles.txt", "a6f63206518448277c63c3a251ac13484784829cf2e1b0a23b0860dd32543520"),
    )
    return Part(
        place=f"{folder}/generator.pt",
        sha256=sha256,
        also=tuple((name, f"{folder}/{name}", digest) for name, digest in names),
        licence="CC-BY-NC-4.0 (of its data; not published itself)",
        source=_EXPRESSO_PAGE,
    )


_KM500 = "31e65ef5e100cb43de08f2c8d225496ace1ed87a49fcb8ee44bd6805f079b1f0"  # configurations of the Expresso voices
_KM2000 = "73932563cedc43cd1dcddfab36ce3b2c3cb76eef3423d25d1fb536ce1ec513bb"
_TWIST_VOICE = Part(  # LJ Speech, with durations; textlesslib's, and SlamKit's config/vocoder/vocoder_hubert_25.yaml
    place=f"{_TWIST}/speech_tokenizer/hifigan_lj_mhubert_base_25hz.pt",
    sha256="d88224e95c501e2cd59a6e4014753169cfe060fb7ade3cc0da03c809fef73b79",
    also=(
        (
            "config.json",
            f"{_TWIST}/speech_tokenizer/hifigan_lj_mhubert_base_25hz_config.json",
            "116dc39be4970cd393e562acd0a0ec70a86aaba7e9ca469b8b836cb3fe46afc7",
        ),
    ),
    licence=_UNKNOWN,
    source=_TWIST_PAGE,
)
_VP = "mhubert_vp_en_es_fr_it3_400k_layer11_km1000"

# ----------------------------------------------------------------------------------------------------------- the chains

# name: (encoder and codebook, language model, vocoder)
CHAINS: dict[str, tuple[str, Part | None, Part | None]] = {
    "gslm-hubert-km50": ("hubert-base-ls960/km50", _gslm_lm("hubert", 50), None),
    "gslm-hubert-km100": (
        "hubert-base-ls960/km100",
        _gslm_lm("hubert", 100),
        _s2st_voice("hubert_base_100_lj", "direct_s2st_discrete_units.md"),
    ),
    "gslm-hubert-km200": ("hubert-base-ls960/km200", _gslm_lm("hubert", 200), None),
    "gslm-cpc-km50": ("cpc-big-ll6k/km50", _gslm_lm("cpc", 50), None),
    "gslm-cpc-km100": ("cpc-big-ll6k/km100", _gslm_lm("cpc", 100), None),
    "gslm-cpc-km200": ("cpc-big-ll6k/km200", _gslm_lm("cpc", 200), None),
    "twist-350m": ("mhubert-base-25hz/km500", _twist_lm("350M"), _TWIST_VOICE),
    "twist-1.3b": ("mhubert-base-25hz/km500", _twist_lm("1.3B"), _TWIST_VOICE),
    "twist-7b": ("mhubert-base-25hz/km500", _twist_lm("7B"), _TWIST_VOICE),
    "slam": ("mhubert-base-25hz/km500", _slam_lm("slprl/slam"), _TWIST_VOICE),
    "slam-scaled": ("mhubert-base-25hz/km500", _slam_lm("slprl/slam_scaled"), _TWIST_VOICE),
    "expresso-hubert-km500": (
        "hubert-base-ls960-layer-9/km500",
        None,
        _expresso_voice(
            "hubert_base_ls960_L9_km500", "d50f4704e961c29cb386924ef32cd0c3a4d1089a3f9be856f8a3b6dcfdd6147a", _KM500
        ),
    ),
    "expresso-hubert-km2000": (
        "hubert-base-ls960-layer-9/km2000-expresso",
        None,
        _expresso_voice(
            "hubert_base_ls960_L9_km2000_expresso",
            "b892fdcca889f4bc6d7f0a0f407ae5d01eca8aaa66b9be333ef33a1c50f2ef52",
            _KM2000,
        ),
    ),
    "expresso-mhubert-km2000-mix": (
        "mhubert-base-vp_mls_cv_8lang/km2000",
        None,
        _expresso_voice(
            "mhubert_base_vp_mls_cv_8lang_it3_L12_km2000",
            "0d160c97519d3ed644e2ec636581b79e56767d60325308849fbb389a494c1466",
            _KM2000,
        ),
    ),
    "expresso-mhubert-km2000": (
        "mhubert-base-vp_mls_cv_8lang/km2000-expresso",
        None,
        _expresso_voice(
            "mhubert_base_vp_mls_cv_8lang_it3_L12_km2000_expresso",
            "8d1585f20edd9b0982f80acbb387a892adf19e4aa719b8dea795c8fa96285cbc",
            _KM2000,
        ),
    ),
    "mhubert-vp-en": (
        "mhubert-base-vp_en_es_fr/km1000",
        None,
        _s2st_voice(f"{_VP}_lj", "textless_s2st_real_data.md"),
    ),
    "mhubert-vp-es": (
        "mhubert-base-vp_en_es_fr/km1000",
        None,
        _s2st_voice(f"{_VP}_es_css10", "textless_s2st_real_data.md"),
    ),
    "mhubert-vp-fr": (
        "mhubert-base-vp_en_es_fr/km1000",
        None,
        _s2st_voice(f"{_VP}_fr_css10", "textless_s2st_real_data.md"),
    ),
}


def _table() -> dict[str, Published]:
    """Every name: encoders, each followed by its codebooks; then chains."""
    names: dict[str, Published] = {}
    for name, encoder in ENCODERS.items():
        names[name] = Published(encoder=encoder)
        own = {k: codebook for k, codebook in CODEBOOKS.items() if k.startswith(f"{name}/")}
        names |= {k: Published(encoder=encoder, codebook=codebook) for k, codebook in own.items()}
    return names | {
        name: replace(names[units], lm=lm, vocoder=vocoder) for name, (units, lm, vocoder) in CHAINS.items()
    }


PUBLISHED = _table()
