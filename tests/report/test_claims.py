"""Valid and invalid claims of sweep files."""

import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from loupe.report.claims import Claim

FIELDS: dict[str, Any] = {
    "number": "6",
    "text": "tanh beats sigmoid",
    "metric": "val/mae",
    "arm": {"activation": "tanh"},
}
KINDS: dict[str, dict[str, Any]] = {
    "beats": {"beats": [{"activation": "sigmoid"}, {"activation": "relu"}]},
    "beats_metric": {"beats_metric": "val/input_mae"},
    "like": {"like": [{"activation": "relu"}], "within": 0.001},
    "like_metric": {"like_metric": "val/lowest_mae", "within": 0.001},
    "between": {"between": [1.25, 1.35]},
}
SURPRISE = {"outcome": "holds", "text": "{first} and {second}", "curves": {"tanh": "hyperbolic tangent"}}


def test_toml_table_becomes_a_claim() -> None:
    text = """
    number = "10a"
    text = "RMSProp beats AdaDelta"
    metric = "val/best_mae"
    arm = {optimizer = "rmsprop", "rmsprop.momentum" = 0.9, mirror = true, hidden = [512, 256]}
    beats = [{optimizer = "adadelta"}]
    """
    claim = Claim.model_validate(tomllib.loads(text))
    assert claim.arm == {"optimizer": "rmsprop", "rmsprop.momentum": "0.9", "mirror": "true", "hidden": "512,256"}
    assert claim.others == ({"optimizer": "adadelta"},)
    assert claim.fields == {"optimizer", "rmsprop.momentum", "mirror", "hidden"}
    assert Claim.model_validate(FIELDS | KINDS["between"] | {"number": 9}).order < claim.order


@pytest.mark.parametrize("kind", KINDS)
def test_claim_has_exactly_one_kind(kind: str) -> None:
    claim = Claim.model_validate(FIELDS | KINDS[kind])
    assert claim.arms[0] == {"activation": "tanh"}
    for other in KINDS.keys() - {kind}:
        with pytest.raises(ValidationError, match="must have exactly one of"):
            Claim.model_validate(FIELDS | KINDS[kind] | KINDS[other])


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({}, "must have exactly one of"),
        ({"beats": []}, "must have exactly one of"),
        (KINDS["beats"] | {"within": 0.1}, "within: must not be set with beats, got 0.1"),
        ({"like": [{"activation": "relu"}]}, "within: must be set with like, got None"),
        (KINDS["like"] | {"within": 0}, "greater than 0"),
        (KINDS["like"] | {"within": float("inf")}, "finite number"),
        ({"between": [2, 1]}, "lower bound, then the upper bound"),
        ({"between": [1]}, "Field required"),
        (KINDS["between"] | {"number": "ten"}, "pattern"),
        (KINDS["between"] | {"text": ""}, "at least 1 character"),
        (KINDS["between"] | {"wins": True}, "not permitted"),
        (KINDS["between"] | {"each": "activation"}, "a field that no arm contains"),
        (KINDS["between"] | {"worst_over": "limit", "change_to": {"limit": 64}}, "a field that no arm contains"),
        (KINDS["between"] | {"worst_over": "hidden", "each": "hidden"}, "must differ from worst_over"),
        (KINDS["between"] | {"surprise": SURPRISE | {"text": "{third}"}}, "must have only the fields first, second"),
        *(
            (KINDS["between"] | {"surprise": SURPRISE | {"text": text}}, "must have only the fields first, second")
            for text in ("{first.x}", "{first.upper}", "{first[a]}", "{first:{first.x}}", "{first!r}", "{}", "{first")
        ),
        (
            KINDS["between"] | {"surprise": SURPRISE | {"metrics": {"val/mae": "mae"}}},
            "curves or metrics, got both",
        ),
        (KINDS["between"] | {"surprise": SURPRISE | {"curves": {}}}, "curves or metrics, got none"),
        (KINDS["between"] | {"surprise": SURPRISE | {"outcome": "undecided"}}, "'holds' or 'does not hold'"),
        ({"beats": [{"activation": "tanh"}]}, "must differ from the arms"),
        ({"arm": {"keep_prob": 0.9}, "beats": [{"keep_prob": ".90"}]}, "must differ from the arms"),
        (KINDS["between"] | {"arm": {"sgd": {"momentum": 0.9}}}, '"sgd.momentum"'),
    ],
)
def test_invalid_claims_are_refused(changed: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Claim.model_validate(FIELDS | changed)
