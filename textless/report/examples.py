"""Examples as HTML, and what the script needs to draw and play them."""

from __future__ import annotations

import math
from typing import Any

from textless.report.codebooks import manner
from textless.report.figures import duration, sound, spectrogram, text, wave_path
from textless.report.material import Example, Track


def examples_html(examples: list[Example], tracks: list[dict[str, Any]]) -> str:
    """Each example with its tracks on a common scale of time; their rows are added to `tracks`."""
    return "".join(_example(n, example, tracks) for n, example in enumerate(examples, 1))


def _example(n: int, example: Example, tracks: list[dict[str, Any]]) -> str:
    about = " · ".join(filter(None, [f"speaker {example.speaker}" if example.speaker else "", duration(example.tracks[0].total)]))
    longest = max(track.seconds for track in example.tracks)
    zoom = (
        '<div class="zoom"><button type="button" data-zoom="0.667" aria-label="show more time">−</button>'
        '<button type="button" data-zoom="1.5" aria-label="show less time">+</button></div>'
    )
    body = "".join(_track(track, tracks) for track in example.tracks)
    return (
        f'<article class="example" id="example-{n}" data-seconds="{longest:.4f}"><header>'
        f'<h3>{text(example.id)} <small>{text(about)}</small></h3>{zoom}</header><div class="scroll">{body}</div></article>'
    )


def _track(track: Track, tracks: list[dict[str, Any]]) -> str:
    n = len(tracks)
    label = text(track.name)
    part = "" if track.seconds > track.total - 0.02 else f"{track.start:.1f} to {track.start + track.seconds:.1f} s of {track.total:.1f} s"
    note = " · ".join(filter(None, [track.note, part]))
    width = f"calc(var(--second) * {track.seconds:.4f})"
    player = picture = ""
    if track.waveform is not None:
        player = f'<audio controls preload="metadata" src="{sound(track.waveform)}" aria-label="{label}"></audio>'
        path, columns = wave_path(track.waveform)
        picture = (
            f'<svg class="wave" viewBox="0 -100 {columns} 200" preserveAspectRatio="none" aria-hidden="true"><path d="{path}"/></svg>'
            f'<img class="spectrogram" src="{spectrogram(track.waveform)}" alt="spectrogram of {label}">{_ruler(track)}'
        )
    rows, drawn = [], []
    for units in track.rows:
        rows.append(
            {
                "kind": "units",
                "name": units.name,
                "rate": units.frame_rate,
                "units": units.units.tolist(),
                "durations": units.durations.tolist(),
            }
        )
        drawn.append(_row(len(rows) - 1, "units", f"units of {units.name}", f"{units.name}, units"))
    if track.phones:
        spans = [[round(a - track.start, 3), round(b - track.start, 3), p, manner(p)] for a, b, p in track.phones]
        rows.append({"kind": "phones", "name": "phones", "spans": spans})
        drawn.append(_row(len(rows) - 1, "phones", "phones", "phones"))
    seam = bar = ""
    if track.kind == "continuation" and track.prompt is not None:
        at = min(max(track.prompt - track.start, 0.0), track.seconds)
        heard = f'<span class="prompt" style="flex:{at:.4f}">prompt</span>' if at > 0 else ""
        bar = f'<div class="parts">{heard}<span class="new" style="flex:{track.seconds - at:.4f}">continuation</span></div>'
        seam = f'<div class="seam" style="left:{100 * at / track.seconds:.3f}%"></div>' if 0 < at < track.seconds else ""
    tracks.append({"seconds": round(track.seconds, 4), "start": round(track.start, 4), "rows": rows, "name": track.name})
    return (
        f'<section class="track {track.kind}" data-track="{n}" aria-label="{label}"><header>'
        f'<div><strong>{label}</strong> <small>{text(note)}</small></div><output class="told"></output>{player}</header>'
        f'<div class="stage" style="width:{width}">{bar}{picture}{"".join(drawn)}{seam}<div class="cursor" hidden></div></div></section>'
    )


def _ruler(track: Track) -> str:
    seconds = range(math.ceil(track.start), math.floor(track.start + track.seconds) + 1)
    marks = "".join(f'<i style="left:{100 * (s - track.start) / track.seconds:.3f}%">{s} s</i>' for s in seconds)
    return f'<div class="ruler" aria-hidden="true">{marks}</div>'


def _row(n: int, kind: str, name: str, label: str) -> str:
    keys = "arrow keys go from one to the next, Enter plays it"
    return (
        f'<div class="row"><span class="name">{text(name)}</span><canvas class="{kind}" data-row="{n}" tabindex="0" role="slider" '
        f'aria-label="{text(label)}: {keys}" aria-valuemin="0" aria-valuenow="0"></canvas></div>'
    )
