"""A sample of random damage, see `flips`; `nox -s cluster` has more of it."""

import pytest

pytest.importorskip("torch")

from flips import damaged


@pytest.mark.parametrize("count", [3, pytest.param(200, marks=pytest.mark.cluster)])
def test_damage_is_named_or_harmless(tmp_path, count):
    found = damaged(tmp_path, range(count), seed=1)
    assert found.wrong == []
    assert found.seen["named"]
