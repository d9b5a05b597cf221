from dataclasses import dataclass
from pathlib import Path

import pytest

from textless.engine.step import Source, Step, path
from textless.engine.yaml import load_pipeline, scalar
from textless.errors import PipelineError


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    type = "files"
    place: str | list = path()
    kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fit(Step):
    type = "fit"
    data: Step
    units: int
    rate: float = 0.5
    fast: bool = False
    name: str | None = None


TABLE = {"files": Files, "fit": Fit}


@pytest.fixture
def load(tmp_path):
    def load(text, *settings):
        (tmp_path / "sub").mkdir(exist_ok=True)
        file = tmp_path / "sub" / "p.yaml"
        file.write_text(text)
        return load_pipeline(file, TABLE, settings).steps

    return load


GOOD = """
vars: {root: data, n: 20, rate: 5e-4}
steps:
  fit: {data: $in, units: "${n}", rate: "${rate}"}
  in: {step: files, place: "${root}/x.tsv"}
"""


def test_steps_values_and_paths(load, tmp_path):
    steps = load(GOOD)
    assert list(steps) == ["fit", "in"]
    assert steps["fit"] == Fit(data=steps["in"], units=20, rate=0.0005)
    assert steps["fit"].data is steps["in"]
    assert steps["in"].place == str(tmp_path / "sub" / "data" / "x.tsv")


def test_overrides_take_paths_from_the_working_folder(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = load(GOOD, "root=other", "fit.units=7", "n=3")
    assert steps["in"].place == str(tmp_path / "other" / "x.tsv")
    assert steps["fit"].units == 7
    both = load('vars: {r: d}\nsteps: {in: {step: files, place: ["${r}/a", b, /c]}}', "r=e")
    assert both["in"].place == [str(tmp_path / "e" / "a"), str(tmp_path / "sub" / "b"), "/c"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 0.0005), ("on", "on"), ("yes", "yes"), ("true", True), ("012", 12), ("0x10", "0x10"), ("1.", 1.0), ("-3", -3), ("~", None),
     ("", None), ("1_000", "1_000"), ("12:30", "12:30"), ("1e3", 1000.0), ("abc", "abc")],
)  # fmt: skip
def test_scalars_of_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_a_whole_number_is_a_float_where_one_is_wanted(load):
    steps = load("steps: {in: {step: files, place: x}, fit: {data: $in, units: 1, rate: 2}}")
    assert type(steps["fit"].rate) is float


@pytest.mark.parametrize(
    ("text", "line", "error"),
    [
        ("steps: {fitt: {units: 1}}", 1, "unknown step 'fitt'; did you mean 'fit'?"),
        ("steps:\n  in: {step: files, place: x}\n  fit: {data: $in, units: 1, untis: 2}", 3, "no field 'untis'; did you mean 'units'?"),
        ("steps:\n  fit: {data: $inn, units: 1}\n  in: {step: files, place: x}", 2, r"no step \$inn; did you mean 'in'?"),
        ('steps:\n  in: {step: files, place: "${rot}"}\nvars: {root: 1}', 2, r"no variable \${rot}; did you mean 'root'?"),
        ("steps:\n  in: {step: files, place: x}\n  fit: {data: $in, units: many}", 3, r"fit\.units must be int, not 'many'"),
        ("steps:\n  in: {step: files, place: x}\n  fit: {data: $in, units: true}", 3, r"fit\.units must be int, not True"),
        ("steps:\n  in: {step: files, place: x}\n  fit: {data: in, units: 1}", 3, r"fit\.data must be step, not 'in'"),
        ("steps:\n  in: {step: files, place: x}\n  fit: {data: $in}", 3, "step fit needs units"),
        ("steps:\n  a: {step: fit, data: $b, units: 1}\n  b: {step: fit, data: $a, units: 1}", 2, "a → b → a is a circle"),
        ("steps:\n  in: {step: files, place: x}\n  in: {step: files, place: y}", 3, "'in' stands twice"),
        ("steps:\n  in: {step: files, place: x, keep: tmp}", 2, "keep is 'tmp'; known: temp, always"),
        ("stesp: {}", 1, "unknown section 'stesp'; did you mean 'steps'?"),
        ("steps: [1]", 1, "steps must be a mapping"),
        ("steps:\n  in: {step: files", 2, "not YAML"),
        ('vars: {a: "${b}", b: "${a}"}\nsteps: {in: {step: files, place: "${a}"}}', 2, "refers to itself"),
    ],
)
def test_errors_name_file_and_line(load, text, line, error):
    with pytest.raises(PipelineError, match=rf"p\.yaml:{line}: .*{error}"):
        load(text)


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("fit.unit=3", "no field 'unit'; did you mean 'units'"),
        ("fti.units=3", "no step 'fti'; did you mean 'fit'"),
        ("rooot=3", "no variable 'rooot'; did you mean 'root'"),
        ("fit.units", "expected name=value"),
        ("fit.units=x", "must be int, not 'x'"),
    ],
)
def test_errors_of_overrides(load, setting, error):
    with pytest.raises(PipelineError, match=f"-s .*{error}"):
        load(GOOD, setting)


def test_no_steps_and_no_file(load, tmp_path):
    with pytest.raises(PipelineError, match="no `steps:`"):
        load("vars: {}")
    with pytest.raises(PipelineError, match=r"gone\.yaml: No such file"):
        load_pipeline(Path("gone.yaml"), TABLE)


def test_the_recipes_that_ship_can_be_read():
    from textless.steps import STEPS

    for file in sorted((Path(__file__).parents[1] / "pipelines").glob("*.yaml")):
        assert load_pipeline(file, STEPS).steps
