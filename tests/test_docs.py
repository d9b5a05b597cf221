"""What the documentation says is so: the recipe in the README loads; steps, fields and published models are all
listed."""

import re
from dataclasses import MISSING, fields

from conftest import ROOT
from textless.engine.yaml import load_pipeline
from textless.steps import STEPS
from textless.zoo import CODEBOOKS, ENCODERS, PUBLISHED


def test_the_recipe_in_the_readme_loads(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    (tmp_path / "my.yaml").write_text(text)
    assert set(load_pipeline(tmp_path / "my.yaml", STEPS, ["km2.n_units=200"]).steps) >= {"hubert", "set"}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_every_step_and_field_is_documented():
    text = (ROOT / "docs" / "steps.md").read_text()
    for name, cls in STEPS.items():
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
        assert section, name
        for f in fields(cls):
            row = re.search(rf"^\| `{f.name}` \|([^|]*)\|", section[1], re.M)
            assert row, f"{name}.{f.name}"
            default = "" if f.default is MISSING else "none" if f.default is None else f"`{f.default}`"
            assert row[1].strip() == default, f"{name}.{f.name}: the default is {default}"


def test_every_published_encoder_is_documented():
    table = (ROOT / "docs" / "encoders.md").read_text().split("|---|---|---|---|---|---|\n")[1].splitlines()
    rows = []
    for name in (name for name in PUBLISHED if name in ENCODERS or name in CODEBOOKS):
        encoder, codebook = PUBLISHED[name].encoder, PUBLISHED[name].codebook
        place = encoder.place.rsplit("/", 1)[-1] if "://" in encoder.place else encoder.place
        own = f"; codebook {codebook.licence}" if codebook and codebook.licence != encoder.licence else ""
        settings = f"{encoder.layer or ''} | {encoder.normalisation} | {codebook.n_units if codebook else ''}"
        rows.append(f"| `{name}` | {place} | {settings} | {encoder.licence}{own} |")
    assert table == rows
