import numpy as np
import pytest

from memlm.evaluate.claims import Claim, Side, parse_claim
from memlm.evaluate.statistics import difference
from memlm.evaluate.verdicts import Case, judge


def side(plus, minus=None, is_absolute=False):
    return Side(((1, plus), (-1, minus)) if minus else ((1, plus),), is_absolute)


def test_claims_about_variants():
    assert parse_claim("gated_mlp < cross_attention") == Claim(side("gated_mlp"), side("cross_attention"))
    assert parse_claim(" dense-2x>pkm.small ") == Claim(side("dense-2x"), side("pkm.small"), 1)


def test_claims_about_differences():
    found = parse_claim("a - b < c-1 - d")
    assert found == Claim(side("a", "b"), side("c-1", "d"))
    assert (str(found), found.variants("abcd")) == ("(a − b) − (c-1 − d)", ["a", "b", "c-1", "d"])
    turned = parse_claim("|a - b| > | c - a |")
    assert turned == Claim(side("a", "b", is_absolute=True), side("c", "a", is_absolute=True), 1)
    assert str(turned) == "|a − b| − |c − a|"
    assert parse_claim("|a - b|<c - d") == Claim(side("a", "b", is_absolute=True), side("c", "d"))


WRONG = ["", "a", "a <", "a <= b", "a = b", "a < b < c", "a b < c", "a << b", "a - b - c < d - e", "|a - b < c - d"]


@pytest.mark.parametrize("text", [*WRONG, "|a| < |b|", "a - < b - c", "a > b > c", "| < |"])
def test_a_claim_must_compare_two_variants_or_differences(text):
    with pytest.raises(ValueError, match="a claim compares two variants or two differences, such as") as caught:
        parse_claim(text)
    assert str(caught.value).endswith(f"not {text!r}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a < a", "compares a with itself"),
        ("a - b < a - b", "compares a − b with itself"),
        ("|a - b| < |b - a|", "compares |a − b| with itself"),
        ("a - a < b - c", "takes a from itself"),
        ("a - b < c", "compares a variant with a difference"),
    ],
)
def test_a_claim_needs_two_different_sides_of_a_kind(text, reason):
    with pytest.raises(ValueError, match="the claim") as caught:
        parse_claim(text)
    assert reason in str(caught.value)


def test_coefficients_add_up():
    means = {"a": 1.0, "b": 2.0, "c": 5.0}
    assert parse_claim("a < b").coefficients(means) == {"a": 1, "b": -1, "c": 0}
    assert parse_claim("a > b").coefficients(means) == {"a": 1, "b": -1, "c": 0}
    assert parse_claim("a - b < b - c").coefficients(means) == {"a": 1, "b": -2, "c": 1}
    assert parse_claim("|a - b| < |c - b|").coefficients(means) == {"a": -1, "b": 2, "c": -1}
    assert parse_claim("|b - a| < |b - c|").coefficients(means) == {"a": -1, "b": 2, "c": -1}


def test_a_sum_may_be_longer():
    claim = parse_claim("|a - b - c + d| > a - b")
    assert str(claim) == "|a − b − c + d| − (a − b)"
    means = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 1.0}  # the sum is -5, so that it is turned
    assert claim.coefficients(means) == {"a": -2, "b": 2, "c": 1, "d": -1}
    assert parse_claim("a + b - c < d").coefficients(means) == {"a": 1, "b": 1, "c": -1, "d": -1}


@pytest.mark.parametrize(
    "text", ["a + b < c + d", "a - b - c < d", "|a - b - c + d| < |c - d - a + b|", "a + b - b < c"]
)
def test_a_longer_sum_is_a_variant_or_a_difference(text):
    with pytest.raises(ValueError, match="claim"):
        parse_claim(text)


def test_a_pattern_is_the_mean_of_what_it_fits():
    variants = ["a-x", "a-y", "b-x", "b-y", "dense-a"]
    claim = parse_claim("a-* - *-y < b-x - dense-*")
    assert claim.variants(variants) == ["a-x", "a-y", "b-y", "b-x", "dense-a"]
    means = dict.fromkeys(claim.variants(variants), 1.0)
    assert claim.coefficients(means) == {"a-x": 0.5, "a-y": 0, "b-y": -0.5, "b-x": -1, "dense-a": 1}
    assert parse_claim("c-* < b-x").variants(variants) == ["c-*", "b-x"]


@pytest.mark.parametrize(
    ("text", "is_void"),
    [("a-* < a*", True), ("a-* < *", False), ("|a-* - b| < |b - a*|", True), ("a-x - a-y < a-x - a*", False)],
)
def test_two_patterns_may_fit_the_same_variants(text, is_void):
    assert parse_claim(text).is_void(["a-x", "a-y", "b"]) is is_void


def test_noise_does_not_pass_for_an_effect():
    """a and b differ by noise alone, c and d by nothing: the absolute values of single seeds would say otherwise."""
    claim, draw = parse_claim("|c - d| < |a - b|"), np.random.default_rng(0)
    fooled = by_seed = 0
    for _ in range(400):
        values = {name: draw.normal(0, sd, size=6) for name, sd in zip("abcd", (0.1, 0.1, 1e-3, 1e-3), strict=True)}
        counts = claim.coefficients({name: found.mean() for name, found in values.items()})
        tested = sum(count * values[name] for name, count in counts.items())
        single = abs(values["c"] - values["d"]) - abs(values["a"] - values["b"])
        (verdict,) = judge([Case(difference(tested.tolist()), looks=claim.looks)], 0.1)
        fooled += verdict.word == "supported"
        by_seed += judge([Case(difference(single.tolist()))], 0.1)[0].word == "supported"
    assert fooled / 400 < 0.1 and by_seed / 400 > 0.5
