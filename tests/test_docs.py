"""What the documentation says is so: the recipe in the README loads, and docs/steps.md lists every step and field."""

import re
from dataclasses import MISSING, fields

from conftest import ROOT
from textless.engine.yaml import load_pipeline
from textless.steps import STEPS


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
