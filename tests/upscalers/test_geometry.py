"""The geometry of a model and its name."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import UsageError
from loupe.upscalers.geometry import Geometry

GEOMETRY = st.builds(
    lambda q, more, sides, halos, luminance: Geometry(q, q + more % (7 * q), q * sides, q * halos, luminance),
    st.integers(1, 200),
    st.integers(0, 3000),
    st.integers(1, 10),
    st.integers(0, 10),
    st.sampled_from(["rec601", "rec709", "relative"]),
)


@given(geometry=GEOMETRY)
def test_a_geometry_survives_a_round_trip_through_its_name(geometry: Geometry) -> None:
    assert Geometry.from_name(geometry.name) == geometry


@given(one=GEOMETRY, other=GEOMETRY)
def test_different_geometries_have_different_names(one: Geometry, other: Geometry) -> None:
    assert (one.name == other.name) == (one == other)


def test_the_scale_is_the_exact_ratio() -> None:
    assert Geometry(10, 15, 10, 0, "rec601").scale == Fraction(3, 2)
    assert Geometry(10, 15, 20, 4, "rec601").name == "loupe.q10.p15.side20.halo4.rec601"


@pytest.mark.parametrize(
    "name",
    [
        "", "functional_1", "loupe", "loupe.q2.p3.side4.halo4", "loupe.q2.p3.side4.halo4.rec601 ",
        "xloupe.q2.p3.side4.halo4.l", "loupe.q-2.p3.side4.halo4.rec601", "loupe.q2.p3.side4.halo4.rec601.more",
        "loupe.q2.p3.side4000000000.halo4.rec601", "loupe.q２.p3.side4.halo4.rec601",
    ],
)  # fmt: skip
def test_a_name_of_another_program_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"model: must be made by Loupe") as refused:
        Geometry.from_name(name)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "loupe.q0.p3.side4.halo4.rec601", "loupe.q3.p2.side3.halo3.rec601", "loupe.q2.p3.side0.halo4.rec601",
        "loupe.q2.p3.side3.halo4.rec601", "loupe.q2.p3.side4.halo3.rec601",
    ],
)  # fmt: skip
def test_an_impossible_geometry_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"model: must have 0 < q <= p, side > 0, .*, got '{name}'"):
        Geometry.from_name(name)


@pytest.mark.parametrize("luminance", ["studio", "rec2020", "REC601"])
def test_an_unknown_luminance_formula_is_refused(luminance: str) -> None:
    name = f"loupe.q2.p3.side4.halo4.{luminance}"
    rule = "one of the luminance formulas rec601, rec709, relative"
    with pytest.raises(UsageError, match=rf"^model: must have {rule}, got '{name}'$"):
        Geometry.from_name(name)
