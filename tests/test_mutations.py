"""The table of `mutations.py` is about the code as it is, and the tests that it names notice what it says."""

import pytest
from mutations import MUTATIONS, problems, try_all


def test_every_mutation_can_be_applied():
    assert len(MUTATIONS) >= 200
    assert len(set(MUTATIONS)) == len(MUTATIONS)
    assert problems(MUTATIONS) == []


def test_what_is_wrong_with_a_mutation_is_said():
    gone, idle = (
        MUTATIONS[0]._replace(old="no code of ours"),
        MUTATIONS[0]._replace(new=MUTATIONS[0].old, tests="pretrain::nothing"),
    )
    first, second, third = problems([gone, idle])
    assert "occurs 0 times in textless/units/encoders/pretrain.py" in first
    assert "changes nothing" in second
    assert "there is no test tests/test_pretrain.py::test_nothing" in third


@pytest.mark.slow
def test_every_twentieth_mutation_is_killed():
    """All of them: `python tests/mutations.py`."""
    found = try_all(MUTATIONS[::20])
    assert {m: v for m, v in found.items() if v != "killed"} == {}
