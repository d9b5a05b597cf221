"""How figures are called and shown: of units, each beside its chance level; of speech, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Form = Callable[[float], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 60
        else f"{seconds / 60:.1f} min"
        if seconds < 3600
        else f"{seconds / 3600:.2f} h"
    )


def _number(digits: int) -> Form:
    return lambda value: f"{value:.{digits}f}"


FIGURES: dict[str, tuple[str, Form]] = {
    "files": ("files", _count),
    "seconds": ("speech", _time),
    "active_units": ("units that occur", _count),
    "perplexity": ("perplexity of the units", _number(1)),
    "segment_ms": ("mean length of a run, ms", _number(1)),
    "units_per_second": ("runs a second", _number(1)),
    "bitrate_codebook": ("bits a second, log2 K a frame", _number(0)),
    "bitrate_frames": ("bits a second, entropy of frames", _number(0)),
    "bitrate": ("bits a second, entropy of runs", _number(0)),
    "pnmi": ("PNMI", _number(3)),
    "phone_purity": ("phone purity", _number(3)),
    "cluster_purity": ("cluster purity", _number(3)),
    "abx_within": ("ABX error, units, within speakers", _share),
    "abx_across": ("ABX error, units, across speakers", _share),
    "frame_abx_within": ("ABX error, frames, within speakers", _share),
    "frame_abx_across": ("ABX error, frames, across speakers", _share),
    "ued_speed_0.9": ("unit edits per frame, 0.9 x speed and pitch", _share),
    "ued_speed_1.1": ("unit edits per frame, 1.1 x speed and pitch", _share),
    "ued_stretch_0.9": ("unit edits per frame, 0.9 x speed", _share),
    "ued_stretch_1.1": ("unit edits per frame, 1.1 x speed", _share),
    "ued_pitch_-2": ("unit edits per frame, 2 semitones lower", _share),
    "ued_pitch_+2": ("unit edits per frame, 2 semitones higher", _share),
    "ued_noise_20": ("unit edits per frame, white noise, 20 dB", _share),
    "ued_noise_10": ("unit edits per frame, white noise, 10 dB", _share),
}


SPEECH: dict[str, tuple[str, Form]] = {
    "files": ("files", _count),
    "seconds": ("speech", _time),
    "log_mel_l1": ("log-mel distance, nats", _number(3)),
    "mcd": ("mel-cepstral distortion, dB", _number(2)),
    "f0_cents": ("pitch error, cents", _number(0)),
    "voicing_error": ("voicing error", _share),
    "stoi": ("STOI", _number(3)),
    "uer": ("unit error rate", _share),
    "wer": ("word error rate", _share),
}


def table(figures: Mapping[str, float]) -> str:
    """Figures of units, in their order, a line each: name, value, 95 % interval and chance level where there are such."""
    return _table(figures, FIGURES, "chance")


def speech_table(figures: Mapping[str, float]) -> str:
    """Figures of speech, likewise: name, value, 95 % interval, and what the original has where that says something."""
    return _table(figures, SPEECH, "original")


def _table(figures: Mapping[str, float], labels: Mapping[str, tuple[str, Form]], beside: str) -> str:
    rows = [("", "value", "95 % interval", beside)]
    for name, (label, form) in labels.items():
        if name in figures:
            low, high, other = (figures.get(f"{name}_{which}") for which in ("low", "high", beside))
            interval = "" if low is None or high is None else f"{form(low)} – {form(high)}"
            rows.append((label, form(figures[name]), interval, "" if other is None else form(other)))
    return _aligned(rows)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Columns: the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join([f"{row[0]:{widths[0]}}", *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )
