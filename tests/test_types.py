import inspect
import typing
import warnings

import numpy as np
import pytest

import textless
from textless.errors import ContractError, ContractWarning, DumpError
from textless.types import UnitContract, Units

CONTRACT = UnitContract(encoder="x" * 64, layer=6, sample_rate=16000, frame_rate=50.0, n_units=10)


def test_frames_and_back():
    rng = np.random.default_rng(0)
    for _ in range(50):
        frames = rng.integers(0, 3, rng.integers(0, 30))
        units = Units.from_frames(frames, CONTRACT)
        assert np.array_equal(units.frames(), frames)
        assert (units.units[1:] != units.units[:-1]).all()
        assert units.n_frames == len(frames)


def test_a_bare_array_is_taken_literally():
    units = Units.of([3, 3, 1])
    assert units.durations is None
    assert units.frames().tolist() == [3, 3, 1]
    assert Units.of(units) is units


def test_seconds_and_slices():
    units = Units(np.array([1, 2, 3]), np.array([50, 25, 25]), CONTRACT)
    assert units.seconds == 2.0
    cut = units.between(0.5, 1.25)
    assert cut.units.tolist() == [1, 2]
    assert cut.durations.tolist() == [25, 12]
    assert units.between(1.5).units.tolist() == [3]
    with pytest.raises(ContractError, match="frame rate"):
        _ = Units(np.array([1])).seconds


def test_slices_are_rounded_to_frames():
    """9.75 frames are ten, and 30.75 are 31; 10.25 are ten, and 31.25 are 31."""
    units = Units(np.arange(40) % 10, None, CONTRACT)
    for start, stop in ((0.195, 0.615), (0.205, 0.625)):
        assert units.between(start, stop).units.tolist() == [u % 10 for u in range(10, 31)]
        assert units.between(start).units.tolist() == [u % 10 for u in range(10, 40)]


def test_slices_beyond_the_end_and_of_no_time():
    units = Units(np.array([1, 2]), np.array([30, 20]), CONTRACT)
    assert units.between(0.4, float("inf")).durations.tolist() == [10, 20]
    assert len(units.between(2.0)) == len(units.between(float("inf"))) == 0
    for start, stop in ((-0.5, 0.2), (0.5, 0.2), (float("nan"), None), (0, float("nan")), (-0.1, None)):
        with pytest.raises(DumpError, match="there is no part from"):
            units.between(start, stop)


def test_addition_keeps_the_seam():
    a, b = Units(np.array([1]), np.array([2]), CONTRACT), Units(np.array([1, 4]), None, CONTRACT)
    both = a + b
    assert both.units.tolist() == [1, 1, 4]
    assert both.durations.tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("units", "durations", "error"),
    [
        (np.zeros((2, 2), int), None, "one-dimensional"),
        (np.array([0.5]), None, "integers"),
        (np.array([1, 2]), np.array([1]), "2 units but 1 durations"),
        (np.array([1]), np.array([0]), "at least 1 frame"),
    ],
)
def test_malformed(units, durations, error):
    with pytest.raises(DumpError, match=error):
        Units(units, durations)


@pytest.mark.parametrize("unit", [-1, 10])
def test_outside_the_codebook(unit):
    with pytest.raises(ContractError, match=f"unit {unit} is outside the codebook of 10"):
        Units(np.array([1, unit]), None, CONTRACT)


def test_contract_names_field_and_both_values():
    with pytest.raises(ContractError, match=r"layer is 9 in the dump but 6 in the LM"):
        CONTRACT.check(CONTRACT.with_(layer=9), mine="the LM", theirs="the dump")


def test_unknown_against_known_warns():
    with pytest.warns(ContractWarning, match="cannot compare encoder"):
        CONTRACT.check(CONTRACT.with_(encoder=None), mine="the LM", theirs="the dump")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CONTRACT.check(CONTRACT, mine="the LM", theirs="the dump")
        UnitContract(n_units=10).check(UnitContract(n_units=10), mine="a", theirs="b")


def test_contract_round_trip_and_unknown_fields():
    assert UnitContract.from_dict(CONTRACT.to_dict()) == CONTRACT
    with pytest.raises(ContractError, match="unknown fields 'colour'"):
        UnitContract.from_dict({"colour": 1})


def test_a_contract_without_a_tap_is_as_before_there_was_one():
    for same in (CONTRACT.with_(tap="block"), CONTRACT.with_(tap=None), UnitContract.from_dict(CONTRACT.to_dict())):
        assert same == CONTRACT
        assert (same.tap, same.tapped) == (None, "block")
    assert "tap" not in CONTRACT.to_dict()
    assert list(CONTRACT.to_dict())[-1] == "codebook"
    ffn = CONTRACT.with_(tap="ffn")
    assert UnitContract.from_dict(ffn.to_dict()) == ffn
    with pytest.raises(ContractError, match="tap is 'attention'; known: block, ffn"):
        CONTRACT.with_(tap="attention")


def test_a_block_is_not_its_ffn():
    """Also where an older contract, without the field, says the layer alone; unknown layers fit both."""
    ffn, older = UnitContract(layer=6, tap="ffn"), UnitContract(layer=6)
    with pytest.raises(ContractError, match=r"tap is ffn in the dump but block in the LM"):
        older.check(ffn, mine="the LM", theirs="the dump")
    with pytest.raises(ContractError, match=r"tap is block in the dump but ffn in the LM"):
        ffn.check(older, mine="the LM", theirs="the dump")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UnitContract(n_units=9).check(UnitContract(n_units=9), mine="a", theirs="b")
        ffn.check(ffn, mine="a", theirs="b")
    with pytest.warns(ContractWarning, match="cannot compare layer, n_units, tap, known on one side only"):
        UnitContract(n_units=9).check(ffn, mine="a", theirs="b")


def test_units_are_shown_in_short():
    units = Units(np.arange(10), np.arange(1, 11), CONTRACT)
    assert repr(units) == "Units(10 units, 1.10 s, K=10)"
    assert repr(Units.of([3, 3, 1])) == "Units(3 units, 3 frames, K=?)"


def public():
    """(name, function) of the package: its functions, and the methods and properties of its classes."""
    for name in textless.__all__:
        value = getattr(textless, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for method, member in vars(value).items():
                function = member.fget if isinstance(member, property) else inspect.unwrap(getattr(value, method))
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and (method == "__init__" or not method.startswith("_")):
                    yield f"{name}.{method}", function


def test_public_functions_say_their_types():
    functions = dict(public())
    assert {"load", "read_audio", "Model.encode", "Units.frames", "UnitContract.with_", "Corpus.load"} < set(functions)
    for name, function in functions.items():
        hints = typing.get_type_hints(function)
        named = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
        assert {*named, "return"} <= set(hints), name
        assert [parameter for parameter, hint in hints.items() if "typing.Any" in str(hint)] == [], name


def test_a_contract_with_other_values():
    assert CONTRACT.with_(layer=7, n_units=None) == UnitContract.from_dict(
        {**CONTRACT.to_dict(), "layer": 7, "n_units": None}
    )
    with pytest.raises(ContractError, match="unknown fields 'layers'"):
        CONTRACT.with_(layers=7)
    with pytest.raises(ContractError, match="layer must be a whole number from 1"):
        CONTRACT.with_(layer=0)
