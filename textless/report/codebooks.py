"""How units are used: frequencies, durations, transitions, and the phones of each unit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from textless.engine.pipeline import Pipeline
from textless.engine.step import Source
from textless.engine.store import Store, check_bytes
from textless.errors import DumpError
from textless.metrics.alignments import frame_phones
from textless.report.curves import Series, chart
from textless.report.html import Html, joined, markup
from textless.report.media import picture
from textless.report.numbers import number
from textless.steps import Assign, Encode
from textless.text import duration
from textless.units.dump import Dump, UnitRow

TOP = 3  # most phones that are named for a unit
LEAST = 0.01  # share of the unit's frames that a named phone has at least
MOST = 1000  # units in a table
LARGEST = 1000  # units along a side of a picture
# Sounds of English in ARPAbet by manner; a phone of another alphabet is `other`.
MANNERS = {
    "vowel": "AA AE AH AO EH ER IH IY UH UW AX IX AXR UX AW AY EY OW OY",
    "approximant": "L R W Y EL WH",
    "nasal": "M N NG EM EN NX",
    "fricative": "F V TH DH S Z SH ZH HH HV",
    "plosive": "P B T D K G DX Q",
    "affricate": "CH JH",
    "silence": "SIL SP SPN PAU H# SILENCE",
}
MANNER = {phone: manner for manner, phones in MANNERS.items() for phone in phones.split()}
ORDER = {phone: n for n, phone in enumerate(MANNER)}


@dataclass
class Use:
    """How one dump uses its K units.

    Attributes:
        frames, runs: (K,) int64, how many of each unit.
        follows: (K, K) int64, how often the second unit follows the first, in deduplicated units.
        phones: those of the alignments in order of manner.
        together: (K, phones) int64 frames, None without alignments.
        rows: number of rows.
    """

    name: str
    n_units: int
    frame_rate: float
    frames: np.ndarray
    runs: np.ndarray
    follows: np.ndarray
    phones: list[str]
    together: np.ndarray | None
    rows: int

    @property
    def dead(self) -> list[int]:
        return np.flatnonzero(self.frames == 0).tolist()


def manner(phone: str) -> str:
    """Manner of articulation of a phone, with or without stress marks."""
    return MANNER.get(phone.upper().rstrip("012"), "other")


def find_uses(pipeline: Pipeline, store: Store, phones: dict[str, list[tuple[float, float, str]]]) -> list[Use]:
    """The use of units in each dump of encoded audio."""
    out: dict[str, Use] = {}
    for name, step in pipeline.steps.items():
        if (
            isinstance(step, Source)
            or not isinstance(step, Encode | Assign)
            or not store.has(step)
            or store.name(step) in out
        ):
            continue
        try:
            dump = Dump(store.folder(step))
            if dump.contract.frame_rate and len(dump):
                out[store.name(step)] = count(
                    name, dump, phones, n_units=dump.contract.n_units, frame_rate=dump.contract.frame_rate
                )
        except DumpError:
            check_bytes([store.folder(step)])
    return list(out.values())


def count(
    name: str,
    rows: Iterable[UnitRow],
    alignments: dict[str, list[tuple[float, float, str]]],
    *,
    n_units: int | None,
    frame_rate: float,
) -> Use:
    """Count units, transitions and phones in one pass over the rows."""
    pairs: Counter[int] = Counter()
    frames, runs = np.zeros(n_units or 0, np.int64), np.zeros(n_units or 0, np.int64)
    follows: dict[int, int] = defaultdict(int)
    total, base = 0, 1 << 20  # so that a pair of integers is one integer
    names: dict[str, int] = {}
    for row in rows:
        total += 1
        every, joined = row.units.frames(), row.units.deduplicated().units
        size = max(len(frames), int(every.max(initial=-1)) + 1)
        frames, runs = (np.pad(a, (0, size - len(a))) for a in (frames, runs))
        frames += np.bincount(every, minlength=size)
        runs += np.bincount(joined, minlength=size)
        for pair, times in zip(*np.unique(joined[:-1] * base + joined[1:], return_counts=True), strict=True):
            follows[int(pair)] += int(times)
        if row.id in alignments:
            spoken = frame_phones(alignments[row.id], len(every), frame_rate=frame_rate)
            codes = np.array([-1 if p is None else names.setdefault(p, len(names)) for p in spoken], np.int64)
            pairs.update((every * base + codes)[codes >= 0].tolist())
    k = len(frames)
    matrix = np.zeros((k, k), np.int64)
    for pair, times in follows.items():
        matrix[pair // base, pair % base] = times
    together = None
    order = sorted(names, key=lambda p: (ORDER.get(p.upper().rstrip("012"), len(ORDER)), p))
    if names:
        column = {names[p]: n for n, p in enumerate(order)}
        together = np.zeros((k, len(order)), np.int64)
        for pair, times in pairs.items():
            together[pair // base, column[pair % base]] = times
    return Use(name, k, frame_rate, frames, runs, matrix, order, together, total)


def uses_html(uses: list[Use], charts: list[dict[str, Any]], maps: list[dict[str, Any]]) -> Html:
    """Each dump in a <details>, the first one open. What the script needs is appended to `charts` and `maps`."""
    return joined(_use(use, charts, maps, first=n == 0) for n, use in enumerate(uses))


def _use(use: Use, charts: list[dict[str, Any]], maps: list[dict[str, Any]], *, first: bool) -> Html:
    total = int(use.frames.sum())
    shares = use.frames / max(1, total)
    lengths = use.frames / np.maximum(1, use.runs) / use.frame_rate * 1000
    by_use = np.argsort(-use.frames, kind="stable")
    living = by_use[use.frames[by_use] > 0]
    entropy = float(-(shares[living] * np.log2(shares[living])).sum())
    facts = [
        f"{use.n_units} units",
        f"{len(living)} occur",
        f"perplexity {number(2**entropy)}",
        f"{number(1000 * total / max(1, int(use.runs.sum())) / use.frame_rate)} ms a run",
        f"{number(use.rows)} rows, {duration(total / use.frame_rate)}",
    ]
    names = [f"unit {k}" for k in living]
    out = [_dead(use)]
    if len(living):
        frequency = Series("share of the frames, %", [(float(n), 100 * float(shares[k])) for n, k in enumerate(living)])
        length = Series("mean length, ms", [(float(n), float(lengths[k])) for n, k in enumerate(living)])
        ranks = "units, the most frequent first"
        histograms = [chart(series.name, ranks, [series], charts, bars=names) for series in (frequency, length)]
        pictures = [markup('<div class="stack">{}</div>', joined(histograms)), _transitions(use, living, maps)]
        if use.together is not None:
            pictures.append(_phone_map(use, living, maps))
        out.append(markup('<div class="charts">{}</div>', joined(pictures)))
        out.append(_table(use, by_use, shares, lengths))
    return markup(
        '<details class="use"{open}><summary><b>{name}</b> <span>{facts}</span></summary>{body}</details>',
        open=" open" if first else "",
        name=use.name,
        facts=" · ".join(facts),
        body=joined(out),
    )


def _dead(use: Use) -> Html:
    if not use.dead:
        return Html()
    listed = ", ".join(map(str, use.dead[:60])) + (" …" if len(use.dead) > 60 else "")
    return markup('<p class="dead"><b>{} of {} units never occur:</b> {}</p>', len(use.dead), use.n_units, listed)


def _by_phone(use: Use, living: np.ndarray) -> np.ndarray:
    """Sort units by their most frequent phone; without phones keep their order."""
    if use.together is None:
        return living
    frames, top = use.together, use.together.argmax(1)
    return np.array(sorted(living.tolist(), key=lambda k: (frames[k].sum() == 0, top[k], -frames[k, top[k]])))


def _transitions(use: Use, living: np.ndarray, maps: list[dict[str, Any]]) -> Html:
    order = _by_phone(use, living)[:LARGEST]
    counts = use.follows[np.ix_(order, order)]
    shares = counts / np.maximum(1, use.follows[order].sum(1, keepdims=True))
    how = "units of the same phone side by side" if use.together is not None else "the most frequent first"
    units = [f"unit {int(k)}" for k in order]
    note = f"from the unit of the row to that of the column, {how}"
    # The square root makes rare successors visible too.
    return _map("transitions between units", note, np.sqrt(shares), (units, units), maps, power=2, shape="map square")


def _phone_map(use: Use, living: np.ndarray, maps: list[dict[str, Any]]) -> Html:
    assert use.together is not None
    order = _by_phone(use, living)[:LARGEST]
    shares = use.together[order] / np.maximum(1, use.together[order].sum(1, keepdims=True))
    units = [f"unit {int(k)}" for k in order]
    note = "share of each phone (rows) in the frames of a unit (columns)"
    return _map("phones of each unit", note, shares.T, (use.phones, units), maps, power=1, named=True)


def _map(
    title: str,
    note: str,
    shares: np.ndarray,
    names: tuple[list[str], list[str]],
    maps: list[dict[str, Any]],
    *,
    power: int,
    shape: str = "map",
    named: bool = False,
) -> Html:
    """A heat map of (rows, columns) float in [0, 1], with the names of both.

    Under the pointer the script shows a value to the `power`. `named`: the names of the rows are written at their side.
    """
    rows, columns = names
    maps.append({"rows": rows, "columns": columns, "power": power})
    axis = markup('<ol aria-hidden="true">{}</ol>', joined(markup("<li>{}</li>", r) for r in rows)) if named else ""
    height = markup(' style="height:{}px"', max(150, 11 * len(rows))) if named else ""
    return markup(
        '<figure class="chart"><figcaption>{title}<small>{note}</small></figcaption><div class="axis"{height}>{axis}'
        '<img class="{shape}" src="{source}" data-map="{n}" alt="{title}: {note}"></div>'
        '<output class="tip" hidden></output></figure>',
        title=title,
        note=note,
        height=height,
        axis=axis,
        shape=shape,
        source=picture(shares),
        n=len(maps) - 1,
    )


def _table(use: Use, by_use: np.ndarray, shares: np.ndarray, lengths: np.ndarray) -> Html:
    phones = use.together is not None
    head = ["unit", "share", "frames", "runs", "mean length", *(["phones", "share of the top phone"] if phones else [])]
    lines = []
    for k in by_use[:MOST].tolist():
        cells = [
            (k, str(k)),
            (shares[k], f"{shares[k]:.2%}"),
            (int(use.frames[k]), number(int(use.frames[k]))),
            (int(use.runs[k]), number(int(use.runs[k]))),
            (lengths[k], f"{lengths[k]:.0f} ms" if use.frames[k] else "–"),
        ]
        row = [markup('<td data-value="{:.6g}">{}</td>', v, t) for v, t in cells]
        if use.together is not None:
            row.append(_phones_of(use.together[k], use.phones))
        lines.append(markup("<tr{}>{}</tr>", "" if use.frames[k] else " class=never", joined(row)))
    looks = {"share": " aria-sort=descending", "phones": " class=words"}
    heads = (markup('<th scope="col"{}><button type="button">{}</button></th>', looks.get(h, ""), h) for h in head)
    left = markup("<p>{} rarer units are not listed.</p>", len(by_use) - MOST) if len(by_use) > MOST else ""
    legend = Html()
    if phones:
        manners = (markup('<li><i class="{0}"></i>{0}</li>', m) for m in (*MANNERS, "other"))
        legend = markup('<ul class="legend manners">{}</ul>', joined(manners))
    return markup(
        '{legend}<div class="tall" tabindex="0" role="region" aria-label="units from {name}"><table class="sortable">'
        "<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>{left}",
        legend=legend,
        name=use.name,
        heads=joined(heads),
        lines=joined(lines),
        left=left,
    )


def _phones_of(counts: np.ndarray, phones: list[str]) -> Html:
    """Two cells: the top phones, with a bar of the shares of all by manner; and the share of the first one."""
    total = int(counts.sum())
    if not total:
        return markup('<td class="words" data-value="">–</td><td data-value="-1">–</td>')
    top = [i for i in np.argsort(-counts, kind="stable")[:TOP].tolist() if counts[i]]
    named = joined(
        (markup("{}&nbsp;{:.0%}", phones[i], counts[i] / total) for i in top if counts[i] >= LEAST * total), " "
    )
    # The bar begins with the top phones one by one; the others are joined by manner.
    rest: Counter[str] = Counter()
    for i in np.flatnonzero(counts).tolist():
        if i not in top:
            rest[manner(phones[i])] += int(counts[i])
    pieces = [(manner(phones[i]), int(counts[i]), phones[i]) for i in top]
    pieces += [(m, n, f"other {m}s" if m != "silence" else m) for m, n in rest.most_common()]
    bar = joined(
        markup('<i class="{}" style="flex:{}" title="{} {:.0%}"></i>', m, n, what, n / total) for m, n, what in pieces
    )
    return markup(
        '<td class="words" data-value="{phone}"><span class="shares">{bar}</span>{named}</td>'
        '<td data-value="{first:.4f}">{first:.0%}</td>',
        phone=phones[top[0]],
        bar=bar,
        named=named,
        first=counts[top[0]] / total,
    )
