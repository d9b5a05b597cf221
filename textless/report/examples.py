"""Examples as HTML, and what the script needs to draw and play them."""

from __future__ import annotations

import math
from typing import Any

from textless.report.codebooks import manner
from textless.report.figures import Html, duration, joined, markup, sound, spectrogram, wave_path
from textless.report.material import Example, Track


def examples_html(examples: list[Example], tracks: list[dict[str, Any]]) -> Html:
    """Each example with its tracks on a common scale of time; their rows are added to `tracks`."""
    return joined(_example(n, example, tracks) for n, example in enumerate(examples, 1))


def _example(n: int, example: Example, tracks: list[dict[str, Any]]) -> Html:
    about = " · ".join(
        filter(None, [f"speaker {example.speaker}" if example.speaker else "", duration(example.tracks[0].total)])
    )
    longest = max(track.seconds for track in example.tracks)
    zoom = markup(
        '<div class="zoom"><button type="button" data-zoom="0.667" aria-label="show more time">−</button>'
        '<button type="button" data-zoom="1.5" aria-label="show less time">+</button></div>'
    )
    return markup(
        '<article class="example" id="example-{n}" data-seconds="{longest:.4f}"><header>'
        '<h3>{id} <small>{about}</small></h3>{zoom}</header><div class="scroll">{body}</div></article>',
        n=n,
        longest=longest,
        id=example.id,
        about=about,
        zoom=zoom,
        body=joined(_track(track, tracks) for track in example.tracks),
    )


def _track(track: Track, tracks: list[dict[str, Any]]) -> Html:
    n = len(tracks)
    part = (
        ""
        if track.seconds > track.total - 0.02
        else f"{track.start:.1f} to {track.start + track.seconds:.1f} s of {track.total:.1f} s"
    )
    note = " · ".join(filter(None, [track.note, part]))
    player = picture = Html()
    if track.waveform is not None:
        player = markup(
            '<audio controls preload="metadata" src="{}" aria-label="{}"></audio>', sound(track.waveform), track.name
        )
        path, columns = wave_path(track.waveform)
        picture = markup(
            '<svg class="wave" viewBox="0 -100 {columns} 200" preserveAspectRatio="none" aria-hidden="true"><path d="{path}"/></svg>'
            '<img class="spectrogram" src="{source}" alt="spectrogram of {name}">{ruler}',
            columns=columns,
            path=path,
            source=spectrogram(track.waveform),
            name=track.name,
            ruler=_ruler(track),
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
    seam = bar = Html()
    if track.kind == "continuation" and track.prompt is not None:
        at = min(max(track.prompt - track.start, 0.0), track.seconds)
        heard = markup('<span class="prompt" style="flex:{:.4f}">prompt</span>', at) if at > 0 else ""
        bar = markup(
            '<div class="parts">{}<span class="new" style="flex:{:.4f}">continuation</span></div>',
            heard,
            track.seconds - at,
        )
        if 0 < at < track.seconds:
            seam = markup('<div class="seam" style="left:{:.3f}%"></div>', 100 * at / track.seconds)
    tracks.append(
        {"seconds": round(track.seconds, 4), "start": round(track.start, 4), "rows": rows, "name": track.name}
    )
    return markup(
        '<section class="track {track.kind}" data-track="{n}" aria-label="{track.name}"><header>'
        '<div><strong>{track.name}</strong> <small>{note}</small></div><output class="told"></output>{player}</header>'
        '<div class="stage" style="width:calc(var(--second) * {track.seconds:.4f})">{bar}{picture}{rows}{seam}'
        '<div class="cursor" hidden></div></div></section>',
        track=track,
        n=n,
        note=note,
        player=player,
        bar=bar,
        picture=picture,
        rows=joined(drawn),
        seam=seam,
    )


def _ruler(track: Track) -> Html:
    seconds = range(math.ceil(track.start), math.floor(track.start + track.seconds) + 1)
    marks = (markup('<i style="left:{:.3f}%">{} s</i>', 100 * (s - track.start) / track.seconds, s) for s in seconds)
    return markup('<div class="ruler" aria-hidden="true">{}</div>', joined(marks))


def _row(n: int, kind: str, name: str, label: str) -> Html:
    return markup(
        '<div class="row"><span class="name">{name}</span><canvas class="{kind}" data-row="{n}" tabindex="0" role="slider" '
        'aria-label="{label}: arrow keys go from one to the next, Enter plays it" aria-valuemin="0" aria-valuenow="0"></canvas></div>',
        name=name,
        kind=kind,
        n=n,
        label=label,
    )
