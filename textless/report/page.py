"""The page: its sections, put into the template and written as one file."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from textless.engine.pipeline import Pipeline
from textless.engine.step import Source
from textless.engine.store import Store
from textless.engine.table import Table, tables
from textless.errors import OutputExistsError, PipelineError
from textless.files import write_text
from textless.report.codebooks import find_uses, uses_html
from textless.report.curves import curves, curves_html
from textless.report.examples import examples_html
from textless.report.html import Html, data, joined, markup, text
from textless.report.material import find_examples, read_phones
from textless.report.media import LEVELS, VIRIDIS
from textless.report.numbers import is_finite, label, number, value_text
from textless.text import duration

GENERATOR = markup('<meta name="generator" content="textless report">')
HEAD = 2000  # first bytes of a report, which hold its generator
KEY_METRICS = 4  # of a step, in the table of steps
# The most informative ones come first, others in the order of the manifest.
FIRST = (
    "pnmi",
    "abx_within",
    "mcd",
    "uer",
    "wer",
    "nll_per_unit",
    "ngram_nll_per_unit",
    "loss",
    "masked_loss",
    "inertia",
    "dead_units",
)


def make_report(pipeline: Pipeline, store: Store, out: Path, *, examples: int = 8, title: str) -> None:
    """Write the results of a pipeline's finished steps as one self-contained HTML file.

    The same store gives the same bytes.

    Args:
        examples: how many ids are shown with sound and units, the first in their order.

    Raises:
        PipelineError: no step is done. OutputExistsError: `out` exists and is not a report.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and GENERATOR.encode() not in out.read_bytes()[:HEAD]):
        raise OutputExistsError(f"{out}: is there and is no report of textless; remove it or give another -o")
    manifests = {
        name: store.manifest(s) for name, s in pipeline.steps.items() if not isinstance(s, Source) and store.has(s)
    }
    store.save_hashes()
    if not manifests:
        raise PipelineError(
            f"nothing of {pipeline.file or 'the pipeline'} is done; `textless run {pipeline.file or 'FILE'}` makes it"
        )
    page = _page(pipeline, store, manifests, examples=examples, title=title)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def _page(pipeline: Pipeline, store: Store, manifests: dict[str, Any], *, examples: int, title: str) -> str:
    """Fill the template. Style and script are from this package; all else is escaped unless it is a piece of a page."""
    phones = read_phones(pipeline, store)
    tracks: list[dict[str, Any]] = []
    charts: list[dict[str, Any]] = []
    maps: list[dict[str, Any]] = []
    sections = [
        ("examples", "Examples", examples_html(find_examples(pipeline, store, phones, count=examples), tracks)),
        ("metrics", "Metrics", _metrics(pipeline, store)),
        ("curves", "Training curves", curves_html(curves(pipeline, store), charts)),
        ("units", "Units", uses_html(find_uses(pipeline, store, phones), charts, maps)),
    ]
    sections.insert(1 if sections[0][2] else 0, ("steps", "Steps", _steps(pipeline, store, manifests)))
    sections = [s for s in sections if s[2]]
    folder = Path(__file__).parent
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("script.js", "style.css"))
    parts = {
        "generator": GENERATOR,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "title": title,
        "style": Html(style),
        "script": Html(script),
        "about": _about(pipeline, manifests),
        "nav": joined(markup('<a href="#{}">{}</a>', anchor, name) for anchor, name, _ in sections),
        "sections": joined(
            markup('<section id="{}"><h2>{}</h2>{}{}</section>', anchor, name, _INTRO.get(anchor, ""), body)
            for anchor, name, body in sections
        ),
        "data": data({"tracks": tracks, "charts": charts, "maps": maps, "colours": VIRIDIS, "levels": LEVELS}),
    }
    # In one pass, so that nothing in the data is taken for a placeholder.
    template = (folder / "template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda m: text(parts[m[1]]), template)


_INTRO = {
    "examples": markup(
        '<p class="intro">Click a waveform or spectrogram to seek; click a unit or a phone to hear it alone. '
        "Keyboard: arrow keys move along a row of units, Enter plays.</p>"
    ),
    "units": markup(
        '<p class="intro">How each dump uses its codebook. Click the head of a column to sort the table.</p>'
    ),
}


def _about(pipeline: Pipeline, manifests: dict[str, Any]) -> Html:
    steps = [s for s in pipeline.steps.values() if not isinstance(s, Source)]
    last = datetime.fromtimestamp(max(m["finished"] for m in manifests.values()), UTC)
    versions = sorted({str(m["versions"].get("textless", "?")) for m in manifests.values()})
    facts = [
        *([markup("<code>{}</code>", Path(pipeline.file).name)] if pipeline.file else []),
        markup("<b>{}</b> of {} steps done", len(manifests), len(steps)),
        f"{duration(sum(m['seconds'] for m in manifests.values()))} of work",
        f"the last on {last:%Y-%m-%d %H:%M} UTC",
        f"textless {', '.join(versions)}",
    ]
    return joined(facts, " · ")


def _steps(pipeline: Pipeline, store: Store, manifests: dict[str, Any]) -> Html:
    rows = {name: (t, row) for t in tables(pipeline, store) for name, row in t.rows.items()}
    lines, missing = [], []
    for name, step in pipeline.steps.items():
        if isinstance(step, Source):
            continue
        manifest = manifests.get(name)
        if manifest is None:
            users = [n for n, s in pipeline.steps.items() if any(p is step for p in s.inputs().values())]
            dropped = name in pipeline.temporary and any(n in manifests for n in users)
            missing.append(
                markup("<li><b>{}</b> {}{}</li>", name, step.type, " (temporary, dropped)" if dropped else "")
            )
            continue
        failures = markup(' <em class="bad">{} rows failed</em>', manifest["failures"]) if manifest["failures"] else ""
        lines.append(
            markup(
                '<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td class="words">{}{}</td></tr>',
                name,
                step.type,
                duration(manifest["seconds"]),
                _key_metrics(pipeline, name, manifest, rows),
                failures,
            )
        )
    left = Html()
    if missing:
        fold = '<details class="more"><summary>{} not done</summary><ul class="plain">{}</ul></details>'
        left = markup(fold, len(missing), joined(missing))
    return markup(
        '<div class="wide" tabindex="0" role="region" aria-label="steps"><table class="steps"><thead><tr>'
        '<th scope="col">step</th><th scope="col" class="words">type</th><th scope="col">time</th>'
        '<th scope="col" class="words">metrics</th>'
        "</tr></thead><tbody>{}</tbody></table></div>{}",
        joined(lines),
        left,
    )


def _key_metrics(
    pipeline: Pipeline, name: str, manifest: dict[str, Any], rows: dict[str, tuple[Table, list[Any]]]
) -> Html:
    if name not in rows:
        curve = (manifest["metrics"] or {}).get("curve")
        return _named(curve[-1] if isinstance(curve, list) and curve and isinstance(curve[-1], dict) else {})
    table, row = rows[name]
    swept = pipeline.variants.get(name, {})
    values = {c: v for c, v in zip(table.columns, row, strict=True) if v is not None and c not in swept}
    return _named(values)


def _named(values: dict[str, Any]) -> Html:
    """The most informative metrics."""
    # Bounds, chance levels and members of groups are in the tables of metrics.
    values = {
        c: v
        for c, v in values.items()
        if "." not in c and not c.endswith(("_low", "_high", "_chance", "_cells", "_curve")) and c != "step"
    }
    names = [c for c in FIRST if c in values] + [c for c in values if c not in FIRST]
    return joined((markup("{} <b>{}</b>", label(c), value_text(c, values[c])) for c in names[:KEY_METRICS]), " · ")


def _metrics(pipeline: Pipeline, store: Store) -> Html:
    content = joined(_table(t, pipeline) for t in tables(pipeline, store))
    return markup('<div class="tables">{}</div>', content) if content else Html()


def _table(table: Table, pipeline: Pipeline) -> Html:
    """A table of metrics by steps, or of steps by metrics where there are more steps.

    Intervals and chance levels are in the cell of their metric.
    """
    columns = {c: [row[n] for row in table.rows.values()] for n, c in enumerate(table.columns)}
    companions = ("_low", "_high", "_chance", "_cells")
    main = [
        c
        for c in columns
        if c != "step"
        and c.removesuffix("_curve") not in columns.keys() - {c}
        and not any(c.endswith(b) and c.removesuffix(b) in columns for b in companions)
    ]
    names = list(table.rows)
    swept = {s for name in names for s in pipeline.variants.get(name, {})}

    def cell(c: str, n: int) -> Html:
        value = columns[c][n]
        if not is_finite(value):
            return markup("<td>{}</td>", "" if value is None else value)
        low, high, chance = (columns.get(c + b, [None] * len(names))[n] for b in ("_low", "_high", "_chance"))
        written = number(value) if c in swept else value_text(c, value)
        interval = level = Html()
        if low is not None and high is not None:
            interval = markup(" <small>[{}, {}]</small>", value_text(c, low), value_text(c, high))
        if chance is not None:
            level = markup(" <small>chance {}</small>", value_text(c, chance))
        return markup("<td>{}{}{}</td>", written, interval, level)

    def name_of(c: str) -> Html:
        return markup("<em>{}</em>", c) if c in swept else text(label(c))

    titles, numbers = [text(n) for n in names], range(len(names))
    if len(names) <= max(6, len(main)):
        head, lines = titles, [(name_of(c), [cell(c, n) for n in numbers]) for c in main]
    else:
        head, lines = [name_of(c) for c in main], [(titles[n], [cell(c, n) for c in main]) for n in numbers]
    return markup(
        '<div><h3>{kind}</h3><div class="wide" tabindex="0" role="region" aria-label="metrics of {kind}"><table>'
        "<thead><tr><td></td>{head}</tr></thead><tbody>{lines}</tbody></table></div></div>",
        kind=table.type,
        head=joined(markup('<th scope="col">{}</th>', h) for h in head),
        lines=joined(markup('<tr><th scope="row">{}</th>{}</tr>', title, joined(cells)) for title, cells in lines),
    )
