import itertools
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT
from textless.engine.step import Source, Step, path
from textless.engine.yaml import load_pipeline, scalar
from textless.errors import PipelineError


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    type = "files"
    place: str | list = path()
    kind: str | list | None = None


@dataclass(frozen=True, kw_only=True)
class Fit(Step):
    type = "fit"
    data: Step
    units: int
    rate: float = 0.5
    fast: bool = False
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pair(Step):
    type = "pair"
    left: Step
    right: Step | None = None
    n: int = 0


TABLE = {"files": Files, "fit": Fit, "pair": Pair}


@pytest.fixture
def write(tmp_path):
    """Write files below the folder, and return the path of the last."""

    def write(**files):
        for name, text in files.items():
            file = tmp_path / f"{name.replace('_', '/')}.yaml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        return file

    return write


@pytest.fixture
def load(write):
    def load(text, *settings):
        return load_pipeline(write(sub_p=text), TABLE, settings).steps

    return load


@pytest.fixture
def sweep(write):
    """The whole pipeline of a file, whose sweep is written apart."""

    def sweep(text, swept, *settings):
        return load_pipeline(write(sub_p=f"{text}\nsweep: {swept}\n"), TABLE, settings)

    return sweep


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
    through = load('vars: {r: d, a: "${r}/a"}\nsteps: {in: {step: files, place: "${a}/b"}}', "r=e")
    assert through["in"].place == str(tmp_path / "e" / "a" / "b")


def test_what_is_no_path_stays_as_it_is(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = load('vars: {s: dev}\nsteps: {in: {step: files, place: x, kind: ["${s}", test]}}', "s=train")
    assert steps["in"].kind == ["train", "test"]


def test_a_list_may_be_a_variable(load, tmp_path):
    steps = load('vars: {r: d, all: ["${r}/a", b]}\nsteps: {in: {step: files, place: "${all}"}}')
    assert steps["in"].place == [str(tmp_path / "sub" / "d" / "a"), str(tmp_path / "sub" / "b")]


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 0.0005), ("on", "on"), ("yes", "yes"), ("true", True), ("012", 12), ("0x10", "0x10"), ("1.", 1.0),
     ("-3", -3), ("~", None),
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
        (
            "steps:\n  in: {step: files, place: x}\n  fit: {data: $in, units: 1, untis: 2}",
            3,
            "no field 'untis'; did you mean 'units'?",
        ),
        (
            "steps:\n  fit: {data: $inn, units: 1}\n  in: {step: files, place: x}",
            2,
            r"no step \$inn; did you mean 'in'?",
        ),
        (
            'steps:\n  in: {step: files, place: "${rot}"}\nvars: {root: 1}',
            2,
            r"no variable \${rot}; did you mean 'root'?",
        ),
        (
            "steps:\n  in: {step: files, place: x}\n  fit: {data: $in, units: many}",
            3,
            r"fit\.units must be int, not 'many'",
        ),
        (
            "steps:\n  in: {step: files, place: x}\n  fit: {data: $in, units: true}",
            3,
            r"fit\.units must be int, not True",
        ),
        ("steps:\n  in: {step: files, place: x}\n  fit: {data: in, units: 1}", 3, r"fit\.data must be step, not 'in'"),
        ("steps:\n  in: {step: files, place: x}\n  fit: {data: $in}", 3, "step fit needs units"),
        (
            "steps:\n  a: {step: fit, data: $b, units: 1}\n  b: {step: fit, data: $a, units: 1}",
            2,
            "a → b → a is a cycle",
        ),
        ("steps:\n  in: {step: files, place: x}\n  in: {step: files, place: y}", 3, "duplicate key 'in'"),
        ("steps:\n  in: {step: files, place: x, keep: tmp}", 2, "keep is 'tmp'; known: temp, always"),
        ("stesp: {}", 1, "unknown section 'stesp'; did you mean 'steps'?"),
        ("steps: [1]", 1, "steps must be a mapping"),
        ("steps: {in: {step: [files]}}", 1, "unknown step "),
        ("steps:\n  in: {step: files", 2, "not YAML"),
        ('vars: {a: "${b}", b: "${a}"}\nsteps: {in: {step: files, place: "${a}"}}', 1, "refers to itself"),
        (
            'vars: {n: many}\nsteps:\n  fit: {data: $in, units: "${n}"}\n  in: {step: files, place: x}',
            1,
            r"fit\.units must be int",
        ),
        (
            "steps:\n  in: {step: files, place: x}\n  fit: {data: $in, units: $in}",
            3,
            r"fit\.units must be int, not a step files",
        ),
        ("steps:\n  in: {step: files, place: {{x}}}", 2, "a name in a value must be a word"),
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
        ("n=x", "fit.units must be int, not 'x'"),
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

    for file in sorted((ROOT / "pipelines").glob("*.yaml")):
        assert load_pipeline(file, STEPS).steps


# ------------------------------------------------------------------------------------------------------------- extends

BASE = """
vars: {root: data, n: 20}
steps:
  in:  {step: files, place: "${root}/x.tsv", kind: a}
  fit: {data: $in, units: "${n}", rate: 0.25}
  top: {step: fit, data: $fit, units: 3}
"""


def extend(write, text, *settings, base=BASE, find=None):
    return load_pipeline(write(base=base, sub_p=text), TABLE, settings, find=find)


def test_an_extended_file_alone_is_the_same_pipeline(write):
    pipeline = extend(write, "extends: ../base.yaml")
    assert pipeline.steps == load_pipeline(write(base=BASE), TABLE).steps
    assert list(pipeline.steps) == ["in", "fit", "top"]


def test_variables_are_replaced_and_steps_merged_field_by_field(write):
    steps = extend(
        write, "extends: ../base.yaml\nvars: {n: 30}\nsteps: {new: {step: pair, left: $top}, fit: {fast: true}}"
    ).steps
    assert list(steps) == ["in", "fit", "top", "new"]
    assert steps["fit"] == Fit(data=steps["in"], units=30, rate=0.25, fast=True)
    assert steps["top"].data is steps["fit"]
    assert steps["new"].left is steps["top"]


def test_another_type_replaces_the_whole_step(write):
    steps = extend(write, "extends: ../base.yaml\nsteps: {fit: {step: pair, left: $in}}").steps
    assert steps["fit"] == Pair(left=steps["in"])
    same = extend(write, "extends: ../base.yaml\nsteps: {fit: {step: fit, units: 5}, in: {step: files, kind: b}}").steps
    assert (same["fit"].rate, same["fit"].units, same["in"].kind) == (0.25, 5, "b")
    assert same["in"].place.endswith("data/x.tsv")


def test_keep_is_inherited(write):
    base = "steps: {in: {step: files, place: x}, fit: {data: $in, units: 1, keep: temp}}"
    assert extend(write, "extends: ../base.yaml", base=base).temporary == {"fit"}
    assert extend(write, "extends: ../base.yaml\nsteps: {fit: {keep: always}}", base=base).temporary == set()


def test_paths_are_relative_to_the_file_that_says_them(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = """
vars: {root: data, there: "${root}/there"}
steps:
  a: {step: files, place: "${there}/a"}
  b: {step: files, place: ["${there}/b", own/b]}
  c: {step: files, place: c}
"""
    steps = extend(write, "extends: ../base.yaml", base=base).steps
    assert [s.place for s in steps.values()] == [
        str(tmp_path / "data/there/a"),
        [str(tmp_path / "data/there/b"), str(tmp_path / "own/b")],
        str(tmp_path / "c"),
    ]
    ours = "extends: ../base.yaml\nvars: {root: mine}\nsteps: {c: {place: d}, e: {step: files, place: '${there}/e'}}"
    steps = extend(write, ours, base=base).steps
    sub = tmp_path / "sub"
    assert [s.place for s in steps.values()] == [
        str(sub / "mine/there/a"),
        [str(sub / "mine/there/b"), str(tmp_path / "own/b")],
        str(sub / "d"),
        str(sub / "mine/there/e"),
    ]
    assert extend(write, ours, "root=here", base=base).steps["a"].place == str(tmp_path / "here/there/a")


def test_a_chain_of_three(write, tmp_path):
    write(
        base=BASE,
        mid_p='extends: ../base.yaml\nvars: {n: 21}\nsteps: {fit: {rate: 2}, more: {step: files, place: "m"}}',
    )
    file = write(sub_p="extends: ../mid/p.yaml\nvars: {root: own}\nsteps: {fit: {fast: true}, more: {kind: k}}")
    steps = load_pipeline(file, TABLE).steps
    assert list(steps) == ["in", "fit", "top", "more"]
    assert steps["fit"] == Fit(data=steps["in"], units=21, rate=2.0, fast=True)
    assert steps["in"].place == str(tmp_path / "sub" / "own" / "x.tsv")
    assert steps["more"] == Files(place=str(tmp_path / "mid" / "m"), kind="k")


def test_a_recipe_by_name_is_found(write, tmp_path):
    asked = []

    def find(name):
        asked.append(name)
        if name != "base":
            raise PipelineError(f"no pipeline {name!r}; did you mean 'base'?")
        return tmp_path / "base.yaml"

    assert list(extend(write, "extends: base\nsteps: {fit: {units: 1}}", find=find).steps) == ["in", "fit", "top"]
    assert extend(write, "extends: ../base.yaml", find=find).steps["in"].kind == "a"
    assert asked == ["base"]
    with pytest.raises(PipelineError, match=r"p\.yaml:2: no pipeline 'bsae'; did you mean 'base'"):
        extend(write, "\nextends: bsae", find=find)
    with pytest.raises(PipelineError, match=r"p\.yaml:1: extends \.\./base, but there is no file"):
        extend(write, "extends: ../base", find=find)
    with pytest.raises(PipelineError, match=r"p\.yaml:1: extends base, but there is no file .*sub/base"):
        extend(write, "extends: base")


@pytest.mark.parametrize(
    ("text", "place", "error"),
    [
        (
            "extends: ../base.yaml\nsteps: {fit: {step: pair, left: $in}, in: {step: pair, left: $in}}",
            "p.yaml:2",
            "in → in is a cycle",
        ),
        (
            "extends: ../base.yaml\nsteps:\n  fit: {step: pair, left: $inn}",
            "p.yaml:3",
            r"no step \$inn; did you mean 'in'",
        ),
        ("extends: ../base.yaml\nsteps:\n  fti: {units: 1}", "p.yaml:3", "unknown step 'fti'; did you mean 'fit'"),
        ("extends: ../base.yaml\nsteps:\n  tpo: {units: 1}", "p.yaml:3", "unknown step 'tpo'; did you mean 'top'"),
        ("extends: ../base.yaml\nsteps:\n  fit:\n    step: pair", "p.yaml:3", "step pair needs left"),
        ("extends: ../base.yaml\nsteps:\n  fit: {step: pair, left: $top}", "p.yaml:3", "fit → top → fit is a cycle"),
        (
            "extends: ../base.yaml\n\nvars: {root: 3}\nsteps: {in: {place: '${root}'}}",
            "p.yaml:3",
            r"in\.place must be str.*not 3",
        ),
        ("extends: ../base.yaml\nstesp: {}", "p.yaml:2", "unknown section 'stesp'"),
        ("\nextends: ../gone.yaml", "p.yaml:2", r"extends \.\./gone\.yaml, but there is no file .*gone\.yaml"),
        ("extends: [../base.yaml]", "p.yaml:1", "extends must be the name of one file"),
        ("extends:", "p.yaml:1", "extends must be the name of one file"),
        ("extends: .", "p.yaml:1", "there is no file"),
    ],
)
def test_errors_of_extended_files_name_the_place(write, text, place, error):
    with pytest.raises(PipelineError, match=rf"{re.escape(place)}: .*{error}"):
        extend(write, text)


def test_a_broken_base_names_itself(write):
    with pytest.raises(PipelineError, match=r"base\.yaml:2: not YAML"):
        extend(write, "extends: ../base.yaml", base="steps:\n  in: {")
    with pytest.raises(PipelineError, match=r"base\.yaml:5: step fit has no field 'untis'; did you mean 'units'"):
        extend(write, "extends: ../base.yaml", base=BASE.replace("rate:", "untis: 3, rate:"))
    with pytest.raises(PipelineError, match=r"base\.yaml: no `steps:`"):
        extend(write, "extends: ../base.yaml", base="vars: {}")


def test_files_that_extend_each_other_are_named(write, tmp_path):
    file = write(a="extends: b.yaml", b="extends: sub/c.yaml", sub_c="\nextends: ../a.yaml", d="extends: d.yaml")
    with pytest.raises(PipelineError, match=r"d\.yaml:1: .*d\.yaml → .*d\.yaml is a cycle"):
        load_pipeline(file, TABLE)
    with pytest.raises(PipelineError, match=r"c\.yaml:2: .*a\.yaml → .*b\.yaml → .*c\.yaml → .*a\.yaml is a cycle"):
        load_pipeline(tmp_path / "a.yaml", TABLE)


# --------------------------------------------------------------------------------------------------------------- sweep

SWEPT = """
vars: {seed: 0, n: 5}
steps:
  in:  {step: files, place: x.tsv}
  km:  {step: fit, data: $in, units: 9}
  lm:  {step: fit, data: $km, units: "${seed}"}
  say: {step: pair, left: $lm, right: $in, n: "${n}"}
"""


def test_the_product_has_an_instance_for_each_combination_that_a_step_depends_on(sweep):
    p = sweep(SWEPT, "{seed: [0, 1, 2], km.units: [50, 100]}")
    assert len(p.steps) == 1 + 2 + 6 + 6
    assert list(p.steps)[:3] == ["in", "km@km.units=50", "km@km.units=100"]
    assert list(p.steps)[3:9] == [f"lm@seed={s},km.units={k}" for s in (0, 1, 2) for k in (50, 100)]
    for s, k in itertools.product((0, 1, 2), (50, 100)):
        lm = p.steps[f"lm@seed={s},km.units={k}"]
        assert (lm.units, lm.data.units) == (s, k)
    assert "in" not in p.variants
    assert p.variants["km@km.units=50"] == {"km.units": 50}
    assert p.variants["say@seed=2,km.units=100"] == {"seed": 2, "km.units": 100}
    assert p.variants.keys() == p.steps.keys() - {"in"}


def test_shared_steps_are_the_same_objects(sweep):
    p = sweep(SWEPT, "{seed: [0, 1, 2], km.units: [50, 100]}")
    for s, k in itertools.product((0, 1, 2), (50, 100)):
        lm, say = p.steps[f"lm@seed={s},km.units={k}"], p.steps[f"say@seed={s},km.units={k}"]
        assert say.left is lm
        assert say.right is p.steps["in"]
        assert lm.data is p.steps[f"km@km.units={k}"]
        assert lm.data.data is p.steps["in"]


def test_only_what_a_step_depends_on_is_in_its_name(sweep):
    p = sweep(SWEPT, "{n: [1, 2], seed: [0, 1]}")
    assert [name for name in p.steps if name[:2] in ("in", "km", "lm")] == ["in", "km", "lm@seed=0", "lm@seed=1"]
    assert [name for name in p.steps if name.startswith("say")] == [
        f"say@n={n},seed={s}" for n in (1, 2) for s in (0, 1)
    ]


def test_a_field_that_is_swept_hides_its_variable(sweep):
    p = sweep(SWEPT, "{seed: [0, 1], lm.units: [7, 8]}")
    assert list(p.steps) == ["in", "km", "lm@lm.units=7", "lm@lm.units=8", "say@lm.units=7", "say@lm.units=8"]


def test_without_a_choice_names_stay_bare(sweep):
    p = sweep(SWEPT, "{seed: [3]}")
    assert list(p.steps) == ["in", "km", "lm", "say"]
    assert p.steps["lm"].units == 3
    assert p.variants == {}
    assert list(sweep(SWEPT, "{}").steps) == ["in", "km", "lm", "say"]
    assert list(sweep(SWEPT, "").steps) == ["in", "km", "lm", "say"]


def test_a_setting_from_outside_fixes_its_axis(sweep):
    p = sweep(SWEPT, "{seed: [0, 1, 2], km.units: [50, 100]}", "seed=1")
    assert list(p.steps) == ["in"] + [f"{n}@km.units={k}" for n in ("km", "lm", "say") for k in (50, 100)]
    assert {p.steps[f"lm@km.units={k}"].units for k in (50, 100)} == {1}
    assert p.variants["lm@km.units=50"] == {"km.units": 50}
    p = sweep(SWEPT, "{seed: [0, 1, 2], km.units: [50, 100]}", "seed=5", "km.units=7")
    assert (list(p.steps), p.variants) == (["in", "km", "lm", "say"], {})
    assert (p.steps["km"].units, p.steps["lm"].units) == (7, 5)


def test_every_instance_of_a_temporary_step_is_temporary(sweep):
    p = sweep(SWEPT.replace("units: 9}", "units: 9, keep: temp}"), "{seed: [0, 1], km.units: [50, 100]}")
    assert p.temporary == {"km@km.units=50", "km@km.units=100"}
    assert sweep(SWEPT.replace("units: 9}", "units: 9, keep: temp}"), "{seed: [0, 1]}").temporary == {"km"}


def test_values_may_be_lists_paths_numbers_nothing_and_steps(sweep, tmp_path):
    p = sweep(SWEPT, "{in.kind: [[a, b], [a], c, null]}")
    assert [n for n in p.steps if n.startswith("in")] == [
        "in@in.kind=a+b",
        "in@in.kind=a",
        "in@in.kind=c",
        "in@in.kind=null",
    ]
    assert [p.steps[f"in@in.kind={k}"].kind for k in ("a+b", "a", "c", "null")] == [["a", "b"], ["a"], "c", None]
    assert p.variants["say@in.kind=a+b"] == {"in.kind": ["a", "b"]}
    assert sweep(SWEPT, "\n  in.kind:\n    - a\n    -").variants["in@in.kind=null"] == {"in.kind": None}
    p = sweep(SWEPT, "{in.place: [a/b, [c, /d]]}")
    assert p.steps["in@in.place=a/b"].place == str(tmp_path / "sub/a/b")
    assert p.steps["in@in.place=c+/d"].place == [str(tmp_path / "sub/c"), "/d"]
    p = sweep(SWEPT, "{lm.rate: [5e-4, 1]}")  # as they are written
    assert [p.steps[f"lm@lm.rate={v}"].rate for v in ("5e-4", "1")] == [0.0005, 1.0]
    assert p.variants["lm@lm.rate=5e-4"] == {"lm.rate": 0.0005}
    p = sweep(SWEPT, "{say.left: [$km, $in]}")
    assert p.steps["say@say.left=km"].left is p.steps["km"]
    assert p.steps["say@say.left=in"].left is p.steps["in"]


def test_the_type_of_a_step_may_be_swept(sweep):
    p = sweep("steps: {in: {step: files, place: x}, a: {step: fit, left: $in}}", "{a.step: [pair]}")
    assert p.steps["a"] == Pair(left=p.steps["in"])


def test_dependence_is_told_without_comparing_all_that_is_above(sweep):
    # Each step takes the one before twice: there are 2^60 paths, which no comparison of contents would ever finish.
    chain = "\n".join(f"  s{i}: {{step: pair, left: $s{i - 1}, right: $s{i - 1}}}" for i in range(1, 61))
    steps = f"steps:\n  s0: {{step: files, place: x, kind: a}}\n{chain}\n  end: {{step: pair, left: $s60}}"
    p = sweep(steps, "{end.n: [1, 2]}")
    assert len(p.steps) == 61 + 2
    assert p.steps["end@end.n=1"].left is p.steps["end@end.n=2"].left
    assert p.steps["end@end.n=1"].left is p.steps["s60"]
    p = sweep(steps, "{s0.kind: [a, b]}")
    assert len(p.steps) == 2 * 62
    assert p.steps["s60@s0.kind=a"].left is p.steps["s60@s0.kind=a"].right
    assert p.steps["s60@s0.kind=a"].left is p.steps["s59@s0.kind=a"]


def test_a_thousand_combinations_are_taken_and_no_more(sweep):
    tens = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    swept = f"{{seed: {tens}, n: {tens}, km.units: {tens}}}"
    assert len(sweep(SWEPT, swept).steps) == 1 + 10 + 100 + 1000
    with pytest.raises(PipelineError, match=r"p\.yaml:9: the sweep has 2000 combinations, more than 1000"):
        sweep(SWEPT, f"{{seed: {tens}, n: {tens}, km.units: {tens}, lm.fast: [true, false]}}")
    assert (
        len(sweep(SWEPT, f"{{seed: {tens}, n: {tens}, km.units: {tens}, lm.fast: [true, false]}}", "n=0").steps)
        == 1 + 10 + 200 + 200
    )


@pytest.mark.parametrize(
    ("swept", "line", "error"),
    [
        ("{sede: [1]}", 8, "no variable 'sede'; did you mean 'seed'"),
        ("\n  sede:\n    - 1", 9, "no variable 'sede'; did you mean 'seed'"),
        ("\n  seed: [1]\n  mk.units: [1]", 10, "no step 'mk'; known: in, km, lm, say"),
        ("\n  seed: [1]\n  km.unit: [1, 2]", 10, "step fit has no field 'unit'; did you mean 'units'"),
        ("{seed: 1}", 8, "sweep of seed must be a list of values"),
        ("{seed: }", 8, "sweep of seed must be a list of values"),
        ("\n  seed: []", 9, "sweep of seed must be a list of values"),
        ("\n  km: {units: [1]}", 9, "sweep of km must be a list of values"),
        ("[seed]", 8, "sweep must be a mapping"),
        ("\n  seed: [0,\n  1, 0]", 10, "duplicate value 0 in the sweep of seed"),
        ("{lm.rate: [1, 1.0]}", 8, "duplicate value 1.0 in the sweep of lm.rate"),
        ('{in.kind: ["1", 1]}', 8, "duplicate value 1 in the sweep of in.kind"),
        ("{km.units: [[1, 2], [1, 2]]}", 8, r"duplicate value 1\+2 in the sweep of km.units"),
        ("{seed: [0], seed: [1]}", 8, "duplicate key 'seed'"),
        ("\n  km.units: [1,\n    many]", 10, r"km\.units must be int, not 'many'"),
        ("\n  seed: [1,\n    many]", 10, r"lm\.units must be int, not 'many'"),
        ("{km.keep: [temp, always]}", 8, "km.keep changes no result"),
        ("{lm.data: [$km, $kn]}", 8, r"no step \$kn; known: in, km, lm, say"),
        ('{seed: [0, "${m}"]}', 8, r"no variable \${m}; known: seed, n"),
        ("{lm.data: [$km, $say]}", 6, "lm → say → lm is a cycle"),
    ],
)
def test_errors_of_sweeps_name_file_and_line(sweep, swept, line, error):
    # SWEPT ends in line 7, and the sweep is in the next.
    with pytest.raises(PipelineError, match=rf"p\.yaml:{line}: .*{error}"):
        sweep(SWEPT.rstrip("\n"), swept)


def test_true_and_one_are_two_values(sweep):
    with pytest.raises(PipelineError, match=r"lm\.units must be int, not True"):
        sweep(SWEPT, "{lm.units: [1, true]}")


def test_names_that_would_meet_are_refused(sweep):
    with pytest.raises(
        PipelineError, match=r"p\.yaml:9: two steps would be called 'in@in\.kind=a,in\.place=b,in\.place=c'"
    ):
        sweep(SWEPT, "{in.kind: ['a', 'a,in.place=b'], in.place: ['c', 'b,in.place=c']}")
    with pytest.raises(PipelineError, match=r"p\.yaml:8: a step's name cannot have an @"):
        sweep(SWEPT.rstrip("\n") + "\n  lm@seed=1: {step: files, place: x}", "{seed: [0, 1]}")


def test_settings_of_a_sweep_are_checked_like_others(sweep):
    with pytest.raises(PipelineError, match="-s sede=1: no variable 'sede'; did you mean 'seed'"):
        sweep(SWEPT, "{seed: [0, 1]}", "sede=1")


# ------------------------------------------------------------------------------------------------------------- together


def test_a_file_that_extends_another_may_sweep_it(write, tmp_path):
    p = extend(write, "extends: ../base.yaml\nsweep: {n: [1, 2], top.rate: [1, 2]}")
    assert list(p.steps) == ["in", "fit@n=1", "fit@n=2"] + [f"top@n={n},top.rate={r}" for n in (1, 2) for r in (1, 2)]
    p = extend(write, "extends: ../base.yaml\nsweep: {root: [a, /b]}")
    assert [p.steps[f"in@root={r}"].place for r in ("a", "/b")] == [str(tmp_path / "sub/a/x.tsv"), "/b/x.tsv"]


def test_the_sweep_of_a_base_stays_until_it_is_replaced(write, tmp_path):
    base = BASE + "sweep: {n: [1, 2]}\n"
    p = extend(write, "extends: ../base.yaml\nvars: {n: 9}\nsteps: {top: {units: 7}}", base=base)
    assert [(name, step.units) for name, step in p.steps.items() if name != "in"] == [
        ("fit@n=1", 1), ("fit@n=2", 2), ("top@n=1", 7), ("top@n=2", 7)
    ]  # fmt: skip
    p = extend(write, "extends: ../base.yaml\nsweep: {root: [a, b]}", base=base)
    assert list(p.steps) == [f"{name}@root={r}" for name in ("in", "fit", "top") for r in ("a", "b")]
    assert p.steps["fit@root=a"].units == 20
    assert list(extend(write, "extends: ../base.yaml\nsweep: {}", base=base).steps) == ["in", "fit", "top"]
    # Its paths start from its own folder, and its errors are its own.
    p = extend(write, "extends: ../base.yaml", base=BASE + "sweep: {root: [a, b]}\n")
    assert p.steps["in@root=b"].place == str(tmp_path / "b/x.tsv")
    with pytest.raises(PipelineError, match=r"base\.yaml:8: .*fit\.units must be int, not 'x'"):
        extend(write, "extends: ../base.yaml", base=BASE + "\nsweep: {n: [1, x]}\n")


def test_the_examples_of_the_documentation_load(tmp_path):
    from textless.steps import STEPS

    text = (ROOT / "docs" / "pipelines.md").read_text()
    blocks = dict(re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", text, re.S))
    assert len(blocks) == text.count("```yaml") == 3
    for name, block in blocks.items():
        (tmp_path / name).write_text(block)
        load_pipeline(tmp_path / name, STEPS)
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^    textless run (.*)", text, re.M)]
    assert len(commands) > 9
    for file, *words in commands:
        settings = [word for before, word in itertools.pairwise(words) if before == "-s"]
        others = [word for before, word in itertools.pairwise(words) if before == "--on"]
        path = tmp_path / file if file in blocks else ROOT / "pipelines" / f"{file}.yaml"
        steps = load_pipeline(path, STEPS, settings).steps
        for target in set(words) - {"-s", "--on", "--dry-run", *settings, *others}:
            assert any(target in (name, name.partition("@")[0]) for name in steps), target
    # The table of the sweep's instances.
    exp = load_pipeline(tmp_path / "exp.yaml", STEPS).steps
    assert set(re.findall(r"`(\w+@[^`]*n_units[^`]*)`", text)) <= exp.keys()
    for name, count in {"corpus": 1, "hidden": 1, "km2": 2, "units": 2, "lm": 6, "score": 6}.items():
        assert sum(full.partition("@")[0] == name for full in exp) == count


# ------------------------------------------------------------------------------------------------------ hostile files


def lines(head, line, numbers, tail=""):
    return head + "".join(line(n) for n in numbers) + tail


IN = "steps:\n  in: {step: files, place: x}\n"
THOUSAND = ", ".join(map(str, range(1000)))
AGAIN = ", ".join(["{}"] * 10)
BOMBS = {
    "aliases": (
        lines(
            "vars:\n  l0: &l0 [x]\n",
            lambda n: f"  l{n}: &l{n} [{AGAIN.replace('{}', f'*l{n - 1}')}]\n",
            range(1, 10),
            IN,
        ),
        "aliases",
    ),
    "aliases in mappings": (
        lines(
            "vars:\n  l0: &l0 {a: x}\n", lambda n: f"  l{n}: &l{n} {{a: *l{n - 1}, b: *l{n - 1}}}\n", range(1, 40), IN
        ),
        "aliases",
    ),
    "a long text, often": (f"vars:\n  t: &t {'x' * 100_000}\n  u: [{', '.join(['*t'] * 200)}]\n{IN}", "aliases"),
    "an alias within itself": (f"vars:\n  a: &a [*a]\n{IN}", "an alias contains itself"),
    "a mapping within itself": (f"vars:\n  a: &a {{b: *a}}\n{IN}", "an alias contains itself"),
    "the file within itself": (f"&a\nvars: *a\n{IN}", "an alias contains itself"),
    "a name of a sweep": ("sweep: {n: [[&a [*a]]]}\nvars: {n: 1}\n" + IN, "an alias contains itself"),
    "variables": (
        lines(
            "vars:\n  v0: xxxxxxxxxx\n",
            lambda n: f'  v{n}: "{f"${{v{n - 1}}}" * 10}"\n',
            range(1, 10),
            IN.replace("x}", '"${v9}"}'),
        ),
        "too long a text",
    ),
    "variables in lists": (
        lines(
            "vars:\n  v0: [x]\n",
            lambda n: f'  v{n}: ["${{v{n - 1}}}", "${{v{n - 1}}}"]\n',
            range(1, 40),
            IN.replace("x}", '"${v39}"}'),
        ),
        "too long a text",
    ),
    "a chain of variables": (
        lines(
            "vars:\n  v0: x\n", lambda n: f'  v{n}: "${{v{n - 1}}}"\n', range(1, 2000), IN.replace("x}", '"${v1999}"}')
        ),
        "a chain of more than 150",
    ),
    "a chain of steps": (
        lines(
            IN + "  f0: {step: pair, left: $in}\n",
            lambda n: f"  f{n}: {{step: pair, left: $f{n - 1}}}\n",
            range(1, 400),
        ),
        "a chain of more than 150",
    ),
    "a chain of steps, turned round": (
        lines(
            "steps:\n",
            lambda n: f"  f{n}: {{step: pair, left: $f{n + 1}}}\n",
            range(3000),
            "  f3000: {step: files, place: x}\n",
        ),
        "a chain of more than 150",
    ),
    "digits": (IN + f"  fit: {{data: $in, units: {'1' * 5000}}}\n", "too large for a number"),
    "digits that fit no array": (IN + f"  fit: {{data: $in, units: {2**63}}}\n", "too large for a number"),
    "an exponent": (IN + "  fit: {data: $in, units: 1, rate: 1e999}\n", "too large for a number"),
    "infinity": (IN + "  fit: {data: $in, units: 1, rate: .inf}\n", "fit.rate must be float, not '.inf'"),
    "no number": (IN + "  fit: {data: $in, units: 1, rate: .nan}\n", "fit.rate must be float, not '.nan'"),
    "deep lists": (f"vars: {{d: {'[' * 900}{']' * 900}}}\n{IN}", "more than 50 deep"),
    "lists without end": (f"vars: {{d: {'[' * 100_000}", "more than 50 deep"),
    "deep blocks": (f"vars:\n  d:\n    {'- ' * 100_000}x\n{IN}", "more than 50 deep"),
    "deep mappings": (f"vars: {{d: {'{a: ' * 100_000}", "more than 50 deep"),
    "many values": (f"vars: {{d: [{'x,' * 200_000}]}}\n{IN}", "more than 100000 values"),
    "a large file": (f"{IN}# {'x' * 2_000_000}", "more than 1 MB"),
    "a large sweep": (
        f"vars: {{a: 1, b: 1, c: 1}}\nsweep: {{{', '.join(f'{v}: [{THOUSAND}]' for v in 'abc')}}}\n{IN}",
        "1000000000 combinations, more than 1000",
    ),
    "a long sweep": (
        f"vars: {{a: 1}}\nsweep: {{a: [{', '.join(map(str, range(90_000)))}]}}\n{IN}",
        "90000 values of a, more than 1000",
    ),
    "many steps in a sweep": (
        f"vars: {{a: 1}}\nsweep: {{a: [{THOUSAND}]}}\n"
        + lines(IN, lambda n: f"  i{n}: {{step: files, place: x}}\n", range(500)),
        "501 steps in 1000 combinations are more than 100000",
    ),
    "a tag": (
        "steps:\n  in: {step: files, place: !!python/object/apply:os.system [ls]}\n",
        "tag tag:yaml.org,2002:python/object",
    ),
    "a tag of a type": (IN + "  fit: {data: $in, units: !!str 5}\n", "tag tag:yaml.org,2002:str is not supported"),
    "a merge": ("vars: {b: &b {place: x}}\nsteps:\n  in: {step: files, <<: *b}\n", "no field '<<'"),
    "several documents": (f"{IN}---\n{IN}", "another document"),
    "a list": ("- x\n", "the pipeline must be a mapping"),
    "a number": ("5\n", "the pipeline must be a mapping"),
    "nothing": ("", "no `steps:`"),
    "a list for a name": ("steps:\n  [a]: {}\n", "must be a word"),
    "a duplicate name": (f"{IN}  in: {{step: files, place: y}}\n", "duplicate key 'in'"),
    "a long name that is unknown": (f"{IN}  ? {'k' * 500_000}\n  : {{step: nope}}\n", "unknown step 'nope'"),
    "a long step that is unknown": (f"{IN}  a: {{step: {'k' * 500_000}}}\n", "unknown step 'kkk"),
    "a long value of a wrong type": (
        f"{IN}  fit: {{data: $in, units: {'k' * 500_000}}}\n",
        "fit.units must be int, not 'kkk",
    ),
    "a tab": ("steps:\n\tin: {step: files, place: x}\n", "not YAML"),
    "a NUL": ("steps:\n  in: {step: files, place: a\0b}\n", "not YAML (unacceptable character #x0000"),
    "a NUL that is written": ('steps:\n  in: {step: files, place: "a\\0b"}\n', "control characters"),
    "an escape in a name": ('steps:\n  "in\\e[2J": {step: files, place: x}\n', "control characters"),
    "half a character": ('steps:\n  in: {step: files, place: "\\ud800"}\n', "not YAML"),
    "UTF-16": (IN.encode("utf-16"), "not a text file in UTF-8"),
    "Latin-1": (b"steps:\n  in: {step: files, place: \xe9}\n", "not a text file in UTF-8"),
    "bytes": (bytes(range(256)) * 4, "not a text file in UTF-8"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_file_is_refused_in_one_line_that_names_it(write, bomb):
    data, error = BOMBS[bomb]
    file = write(sub_p="")
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(PipelineError) as e:
        load_pipeline(file, TABLE)
    assert error in str(e.value)
    assert str(e.value).startswith(str(file))
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600 + len(str(file))


@pytest.mark.slow
def test_memory_and_time_of_hostile_files_are_bounded(tmp_path):
    """All of them in one process of a gigabyte. What grows without bound would never end."""
    code = """
        import json, resource, sys
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
        from textless.engine.yaml import load_pipeline
        from textless.errors import PipelineError
        from textless.steps import STEPS
        refused = 0
        for file in sys.argv[1:]:
            try:
                load_pipeline(file, STEPS)
            except PipelineError:
                refused += 1
        print(refused)
    """
    files = []
    for n, (data, _) in enumerate(BOMBS.values()):
        files.append(tmp_path / f"{n}.yaml")
        files[-1].write_bytes(data if isinstance(data, bytes) else data.encode())
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, files)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{len(BOMBS)}\n"


def test_what_is_large_and_good_is_taken(load, tmp_path):
    many = ", ".join(f'"${{r}}/{n}"' for n in range(5000))
    files = load(f"vars: {{r: /d}}\nsteps: {{in: {{step: files, place: [{many}]}}}}")["in"].place
    assert files == [f"/d/{n}" for n in range(5000)]
    assert load(f"\ufeff{IN}")["in"].place == str(tmp_path / "sub" / "x")
    chain = load(
        lines(
            IN + "  f0: {step: pair, left: $in}\n",
            lambda n: f"  f{n}: {{step: pair, left: $f{n - 1}}}\n",
            range(1, 140),
        )
    )
    assert len(chain) == 141
    shared = load('vars: {s: &s [a, b], t: *s}\nsteps: {in: {step: files, place: x, kind: "${t}"}}')
    assert shared["in"].kind == ["a", "b"]
    empty = lines(
        "vars:\n  v0: ''\n",
        lambda n: f'  v{n}: "{f"${{v{n - 1}}}" * 10}"\n',
        range(1, 12),
        IN.replace("x}", '"y${v11}"}'),
    )
    assert load(empty)["in"].place == str(tmp_path / "sub" / "y")  # looked up 11 times, not 10 to the 11th
    assert load(IN + f"  fit: {{data: $in, units: {2**63 - 1}}}")["fit"].units == 2**63 - 1


@pytest.mark.parametrize("setting", [f"fit.units={'1' * 5000}", "fit.units=1e999"])
def test_a_setting_that_is_no_number_is_refused(load, setting):
    with pytest.raises(PipelineError, match=r"^-s fit\.units: .* is too large for a number"):
        load(IN + "  fit: {data: $in, units: 1}", setting)


def test_a_chain_of_files_is_bounded(write):
    write(**{f"f{n}": f"extends: f{n + 1}.yaml\n" for n in range(30)}, f30=IN)
    with pytest.raises(PipelineError, match=r"more than 20 files extend one another"):
        load_pipeline(write(top="extends: f0.yaml"), TABLE)
    assert list(load_pipeline(write(top="extends: f15.yaml"), TABLE).steps) == ["in"]
