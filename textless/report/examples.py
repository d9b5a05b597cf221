"""Examples as HTML, and the data that the script draws and plays."""

from __future__ import annotations

import math
from typing import Any

from textless.report.codebooks import manner
from textless.report.html import Html, joined, markup
from textless.report.material import Example, Track
from textless.report.media import sound, spectrogram, wave_path
from textless.text import duration


def examples_html(examples: list[Example], tracks: list[dict[str, Any]]) -> Html:
    """Each example with its tracks on a common time scale; the data of tracks are appended to `tracks`."""
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
    rows, drawn = _rows(track)
    tracks.append(
        {"seconds": round(track.seconds, 4), "start": round(track.start, 4), "rows": rows, "name": track.name}
    )
    part = f"{track.start:.1f} to {track.start + track.seconds:.1f} s of {track.total:.1f} s"
    note = " · ".join(filter(None, [track.note, part if track.seconds <= track.total - 0.02 else ""]))
    player, picture = _sound(track)
    bar, seam = _prompt(track)
    return markup(
        '<section class="track {track.kind}" data-track="{n}" aria-label="{track.name}"><header><div>'
        '<strong>{track.name}</strong> <small>{note}</small></div><output class="value"></output>{player}</header>'
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


def _sound(track: Track) -> tuple[Html, Html]:
    """The player, and waveform and spectrogram; both empty where there is no sound."""
    if track.waveform is None:
        return Html(), Html()
    player = markup(
        '<audio controls preload="metadata" src="{}" aria-label="{}"></audio>', sound(track.waveform), track.name
    )
    path, columns = wave_path(track.waveform)
    picture = markup(
        '<svg class="wave" viewBox="0 -100 {columns} 200" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="{path}"/></svg><img class="spectrogram" src="{source}" alt="spectrogram of {name}">{ruler}',
        columns=columns,
        path=path,
        source=spectrogram(track.waveform),
        name=track.name,
        ruler=_ruler(track),
    )
    return player, picture


def _rows(track: Track) -> tuple[list[dict[str, Any]], list[Html]]:
    """Rows of units and of phones, as data for the script and as HTML."""
    rows: list[dict[str, Any]] = []
    drawn: list[Html] = []
    for units in track.rows:
        row = {
            "kind": "units",
            "name": units.name,
            "rate": units.frame_rate,
            "units": units.units.tolist(),
            "durations": units.durations.tolist(),
        }
        rows.append(row)
        drawn.append(_row(len(rows) - 1, "units", f"units from {units.name}"))
    if track.phones:
        spans = [[round(a - track.start, 3), round(b - track.start, 3), p, manner(p)] for a, b, p in track.phones]
        rows.append({"kind": "phones", "name": "phones", "spans": spans})
        drawn.append(_row(len(rows) - 1, "phones", "phones"))
    return rows, drawn


def _prompt(track: Track) -> tuple[Html, Html]:
    """The bar above a continuation that marks its prompt, and the line where the prompt ends."""
    if track.kind != "continuation" or track.prompt is None:
        return Html(), Html()
    end = min(max(track.prompt - track.start, 0.0), track.seconds)
    prompt = markup('<span class="prompt" style="flex:{:.4f}">prompt</span>', end) if end > 0 else Html()
    bar = markup(
        '<div class="parts">{}<span class="new" style="flex:{:.4f}">continuation</span></div>',
        prompt,
        track.seconds - end,
    )
    seam = markup('<div class="seam" style="left:{:.3f}%"></div>', 100 * end / track.seconds)
    return bar, seam if 0 < end < track.seconds else Html()


def _ruler(track: Track) -> Html:
    seconds = range(math.ceil(track.start), math.floor(track.start + track.seconds) + 1)
    marks = (markup('<i style="left:{:.3f}%">{} s</i>', 100 * (s - track.start) / track.seconds, s) for s in seconds)
    return markup('<div class="ruler" aria-hidden="true">{}</div>', joined(marks))


def _row(n: int, kind: str, name: str) -> Html:
    return markup(
        '<div class="row"><span class="name">{name}</span>'
        '<canvas class="{kind}" data-row="{n}" tabindex="0" role="slider" aria-valuemin="0" aria-valuenow="0" '
        'aria-label="{name}: arrow keys go from one to the next, Enter plays it"></canvas></div>',
        name=name,
        kind=kind,
        n=n,
    )
