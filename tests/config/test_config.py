"""Settings: one source of truth for every step."""

import ast
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import loupe
from loupe.config import STEPS, parse_settings
from loupe.config.base import GIVEN, Settings, SettingsError, list_choices
from loupe.config.fields import format_value
from loupe.config.networks import DEFAULT_PATCHES, NETWORKS, build_train_class, find_field_owners
from loupe.config.optimizers import OPTIMIZERS, Optimizer
from loupe.config.training import TRAINED_SCALES, GradientTrain

TRAINED = [name for name, network in NETWORKS.items() if issubclass(network, GradientTrain)]
TRAIN = [
    *({"network": network, "optimizer": optimizer} for network in TRAINED for optimizer in OPTIMIZERS),
    *({"network": network} for network in NETWORKS if network not in TRAINED),
]
# Every settings class: (step, the fields that select it).
CLASSES = [*((step, {}) for step in STEPS), *(("train", given) for given in TRAIN)]
SMOKE_CLASSES = [(step, given) for step, given in CLASSES if "smoke" in STEPS[step].model_fields]
# Every field once: (step, the fields that select its class, name).
FIELDS = [
    *((step, {}, name) for step, settings in STEPS.items() if step != "train" for name in settings.model_fields),
    *(
        ("train", {"network": network}, name)
        for network in NETWORKS
        for name in build_train_class(network).model_fields
    ),
    *(
        ("train", {"network": TRAINED[0], "optimizer": optimizer}, name)
        for optimizer, settings in OPTIMIZERS.items()
        for name in sorted(settings.model_fields.keys() - Settings.model_fields.keys())
    ),
]
BOUNDS = {"ge": -1, "le": 1, "gt": 0, "lt": 0}  # kind -> direction to the nearest refused value


def field_of(step: str, given: dict[str, str], name: str) -> Any:
    return (build_train_class(**given) if step == "train" else STEPS[step]).model_fields[name]


def bounds_of(info: Any) -> list[tuple[str, Any]]:
    return [(kind, getattr(part, kind)) for part in info.metadata for kind in BOUNDS if hasattr(part, kind)]


BOUNDED = [case for case in FIELDS if any(bound is not None for _, bound in bounds_of(field_of(*case)))]
# The other fields accept any text: names and paths, which only the step can validate.
RULED = [
    case
    for case in FIELDS
    if field_of(*case).annotation in (bool, int, float)
    or list_choices(field_of(*case).annotation)
    or case[2] in ("patch", "hidden", "scale", "scales", "limit", "recompress")
]


def named(case: Any) -> str:
    return "-".join(case.values()) or "defaults" if isinstance(case, dict) else str(case)


def refusal(step: str, given: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as refused:
        parse_settings(step, given)
    text = str(refused.value)
    assert "\n" not in text
    return text


def condition(settings: type[Settings], name: str) -> dict[str, Any]:
    """Return the values of other fields that a field needs to have an effect."""
    depends: dict[str, Any] = {}
    for base in reversed(settings.__mro__):
        depends |= vars(base).get("DEPENDS", {})
    found: dict[str, Any] = {"size": "1920x1080"} if name == "skip_larger" else {}
    for other, value in depends.get(name, {}).items():
        one = min(value) if isinstance(value, frozenset) else value
        text = "1920x1080" if other == "size" else "somewhere"
        found |= {**condition(settings, other), other: text if one is GIVEN else one}
    return found


@pytest.mark.parametrize(("step", "given"), CLASSES, ids=named)
def test_defaults_are_valid_and_survive_conversion_to_text(step: str, given: dict[str, str]) -> None:
    settings = parse_settings(step, given)
    again = parse_settings(step, settings.to_texts())
    assert again.model_dump() == settings.model_dump()
    assert again.to_texts() == settings.to_texts()


@pytest.mark.parametrize(("step", "given"), SMOKE_CLASSES, ids=named)
def test_smoke_settings_survive_conversion_to_text(step: str, given: dict[str, str]) -> None:
    settings = parse_settings(step, {"smoke": True} | given)
    assert parse_settings(step, settings.to_texts()).model_dump() == settings.model_dump()


@pytest.mark.parametrize(("step", "given", "name"), FIELDS, ids=named)
def test_every_choice_and_boolean_is_parsed_from_text(step: str, given: dict[str, str], name: str) -> None:
    settings = type(parse_settings(step, given))
    info = settings.model_fields[name]
    values: tuple[Any, ...] = (True, False) if info.annotation is bool else list_choices(info.annotation)
    if not values:
        values = (getattr(parse_settings(step, given | condition(settings, name)), name),)
    for value in values:
        read = parse_settings(step, given | condition(settings, name) | {name: format_value(value)})
        assert getattr(read, name) == value
        assert type(getattr(read, name)) is type(value)


@pytest.mark.parametrize(("step", "given", "name"), BOUNDED, ids=named)
def test_bounds_are_accepted_and_values_outside_are_refused(step: str, given: dict[str, str], name: str) -> None:
    info = field_of(step, given, name)
    for kind, bound in bounds_of(info):
        unit = 1 if isinstance(bound, int) and info.annotation is not float else 1e-9
        bad = bound + BOUNDS[kind] * unit * max(1, abs(bound))
        line = refusal(step, given | {name: str(bad)})
        assert line.startswith(f"{name}: must be ")
        assert str(bound) in line
        assert line.endswith(f"got {str(bad)!r}")
        if BOUNDS[kind]:
            assert TypeAdapter(info.rebuild_annotation()).validate_python(str(bound)) == bound


@pytest.mark.parametrize(("step", "given", "name"), RULED, ids=named)
def test_the_error_for_a_wrong_value_names_field_rule_and_value(step: str, given: dict[str, str], name: str) -> None:
    line = refusal(step, {**given, name: "rubbish"})
    assert line.startswith(f"{name}: must be ")
    assert line.endswith("got 'rubbish'")
    choices = {"network": tuple(NETWORKS), "optimizer": tuple(OPTIMIZERS)}.get(name)
    assert all(
        format_value(choice) in line for choice in choices or list_choices(field_of(step, given, name).annotation)
    )


@pytest.mark.parametrize("step", STEPS)
def test_the_error_for_an_unknown_field_names_it(step: str) -> None:
    line = refusal(step, {"bogus": "1"})
    assert line.startswith(f"bogus: is not a field of {step}")
    assert f"loupe {step} --help" in line


@pytest.mark.parametrize("given", TRAIN, ids=named)
def test_the_error_for_a_field_of_another_network_or_optimizer_names_its_owner(given: dict[str, str]) -> None:
    own = build_train_class(**given).model_fields
    foreign = {
        name: f"{kind}={key}"
        for kind, table in (("network", NETWORKS), ("optimizer", OPTIMIZERS))
        for key, settings in table.items()
        for name in settings.model_fields
        if name not in own
    }
    assert foreign
    for name, owner in foreign.items():
        line = refusal("train", {**given, name: "1"})
        assert line.startswith(f"{name}: is a field of ")
        assert owner in line
        assert find_field_owners(name)
        assert "'1'" in line


@pytest.mark.parametrize("network", TRAINED)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_network_can_be_combined_with_every_optimizer(network: str, optimizer: str) -> None:
    settings = parse_settings("train", {"network": network, "optimizer": optimizer})
    assert isinstance(settings, NETWORKS[network])
    assert isinstance(settings, OPTIMIZERS[optimizer])
    both = NETWORKS[network].model_fields.keys() | OPTIMIZERS[optimizer].model_fields.keys()
    assert type(settings).model_fields.keys() == both
    own = {"optimizer": optimizer} | OPTIMIZERS[optimizer].DEFAULTS  # an optimizer's rate goes before a network's
    for name, value in (NETWORKS[network].DEFAULTS | own).items():
        assert getattr(settings, name) == value


@pytest.mark.parametrize("network", TRAINED)
def test_the_optimizer_defaults_to_that_of_the_network(network: str) -> None:
    settings = parse_settings("train", {"network": network})
    assert isinstance(settings, OPTIMIZERS[settings.optimizer])
    assert settings.optimizer == NETWORKS[network].model_fields["optimizer"].default


def test_every_settings_class_is_reachable() -> None:
    assert set(OPTIMIZERS.values()) == set(written_below(Optimizer))
    assert {step.STEP for step in written_below(Settings)} - {""} == set(STEPS)
    assert {key: list_choices(network.model_fields["network"].annotation) for key, network in NETWORKS.items()} == {
        key: (key,) for key in NETWORKS
    }
    assert {key: step.STEP for key, step in STEPS.items()} == {key: key for key in STEPS}


def written_below(settings: type[Settings]) -> list[type[Settings]]:
    """Return the subclasses that modules of Loupe define, without those that build_train_class creates."""
    ours = [sub for sub in settings.__subclasses__() if sub.__module__.startswith("loupe.")]
    below = [sub for sub in ours if getattr(sys.modules[sub.__module__], sub.__name__, None) is sub]
    return [*below, *(deeper for sub in below for deeper in written_below(sub))]


@pytest.mark.parametrize(("step", "given"), SMOKE_CLASSES, ids=named)
def test_smoke_changes_only_fields_that_are_not_given(step: str, given: dict[str, str]) -> None:
    whole = parse_settings(step, given)
    small = parse_settings(step, given | {"smoke": "true"})
    sizes: dict[str, Any] = {}
    for base in reversed(type(whole).__mro__):
        sizes |= vars(base).get("SMOKE", {})
    assert small.smoke
    for name in sizes:
        assert getattr(small, name) != getattr(whole, name)
        assert getattr(
            parse_settings(step, given | {"smoke": "true", name: format_value(getattr(whole, name))}), name
        ) == (getattr(whole, name))


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "yes", "on", "t", "y", "T", "Y", True, 1])
def test_every_spelling_of_true_enables_smoke(text: Any) -> None:
    settings = parse_settings("train", {"smoke": text})
    assert settings.smoke
    assert settings.steps < parse_settings("train", {}).steps


@pytest.mark.parametrize("text", ["false", "0", "no", "off", "f", "n", False, 0])
def test_no_spelling_of_false_enables_smoke(text: Any) -> None:
    assert parse_settings("train", {"smoke": text}).steps == parse_settings("train", {}).steps


@pytest.mark.parametrize(("step", "given"), CLASSES, ids=named)
def test_a_field_without_effect_is_refused_and_not_a_param(step: str, given: dict[str, str]) -> None:
    settings = parse_settings(step, given)
    for name, other in settings.list_unused_fields().items():
        value = format_value(getattr(settings, name))
        line, cause = (
            refusal(step, {**given, name: value}),
            f"{other.rstrip('_')}={format_value(getattr(settings, other))}",
        )
        assert line == f"{name}: has no effect with {cause}, got {value}"
        assert name not in settings.to_texts()
        effective = parse_settings(step, {**given, **condition(type(settings), name), name: value})
        assert effective.to_texts()[name] == value


@pytest.mark.parametrize(
    ("name", "value"), [("data_dir", "data"), ("run_name", "one"), ("tags", "owner=ana"), ("note", "draft")]
)
def test_a_report_of_a_table_refuses_the_fields_of_datasets_and_runs(name: str, value: str) -> None:
    line = refusal("report", {"from_": "results.parquet", name: value})
    assert line == f"{name}: has no effect with from=results.parquet, got {value}"


def test_some_fields_depend_on_others() -> None:
    assert {"stddev", "decay_rate", "decay_steps"} <= parse_settings("train", {}).list_unused_fields().keys()
    assert "labels_per_photo" in parse_settings("preprocess", {}).list_unused_fields()


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=format_value)
def test_a_patch_must_have_the_ratio_of_the_scale(scale: Fraction) -> None:
    given = {"network": "perceptron", "scale": format_value(scale)}
    assert parse_settings("train", given).patch == DEFAULT_PATCHES[scale]
    assert parse_settings("train", given | {"patch": "whole"}).patch == "whole"
    for factor in (1, 4):
        patch = f"{factor * scale.denominator}:{factor * scale.numerator}"
        assert parse_settings("train", given | {"patch": patch}).patch == patch
    line = refusal("train", given | {"patch": "5:6"})
    rule = f"input side:label side with the ratio of scale {format_value(scale)}, such as {DEFAULT_PATCHES[scale]}"
    assert line == f"patch: must be {rule}, got 5:6"


@pytest.mark.parametrize(
    ("scales", "smoke", "size"),
    [
        ("3:2,2:1,3:1", "false", 150),
        ("4:1", "false", 148),
        ("4:1", "true", 88),
        ("3:2,4:1", "false", 144),
        ("201:200", "false", 201),
    ],
)
def test_the_default_label_size_fits_all_scale_factors(scales: str, smoke: str, size: int) -> None:
    assert parse_settings("preprocess", {"scales": scales, "smoke": smoke}).label_size == size


def test_a_label_has_inputs_that_are_large_enough_for_ridge_regression() -> None:
    assert parse_settings("preprocess", {"label_size": "24", "scales": "4:1"}).label_size == 24
    message = "label_size: must be at least 24 for scale 4:1, got 20"
    assert refusal("preprocess", {"label_size": "20", "scales": "4:1"}) == message


def test_a_label_size_must_be_divisible_for_every_scale() -> None:
    assert parse_settings("preprocess", {"label_size": "100", "scales": "2:1"}).label_size == 100
    assert refusal("preprocess", {"label_size": "100", "scales": "2:1,3:2"}) == (
        "label_size: must be a multiple of 3 for scale 3:2, got 100"
    )


def test_spaces_around_the_commas_of_a_text_of_inputs_are_not_part_of_the_paths() -> None:
    assert parse_settings("upscale", {"inputs": "a b.jpg, c.png ,d"}).inputs == ("a b.jpg", "c.png", "d")
    assert parse_settings("upscale", {"inputs": [" a.jpg"]}).inputs == (" a.jpg",)


@pytest.mark.parametrize(
    ("step", "name", "value", "parsed"),
    [
        ("train", "dataset", Path("a,b"), "a,b"),
        ("train", "note", Path("a,b"), "a,b"),
        ("preprocess", "source", Path("a,b"), ("a,b",)),
        ("upscale", "inputs", Path("a,b"), ("a,b",)),
        ("upscale", "inputs", [Path("a,b"), "c"], ("a,b", "c")),
        ("evaluate", "others", (Path("a.onnx"), "lanczos"), ("a.onnx", "lanczos")),
    ],
)
def test_a_path_object_means_its_text(step: str, name: str, value: Any, parsed: Any) -> None:
    assert getattr(parse_settings(step, {name: value}), name) == parsed


def test_a_crop_must_consist_of_whole_blocks() -> None:
    assert parse_settings("train", {"crop_size": "9", "scale": "2:1"}).crop_size == 9
    for scale in ("1:1", "3:2"):
        assert (
            refusal("train", {"crop_size": "9", "scale": scale})
            == f"crop_size: must be a multiple of 2 at scale {scale}, got 9"
        )


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_an_output_activation_that_prevents_initialisation_from_ridge_is_refused(activation: str) -> None:
    given = {"network": "perceptron", "skip": "ridge", "activation": activation, "output_activation": "same"}
    assert refusal("train", given) == (
        f"output_activation: must be linear with skip=ridge and activation={activation}, got same"
    )
    for change in ({"skip": "none"}, {"activation": "tanh"}, {"output_activation": "linear"}):
        parse_settings("train", given | change)


@pytest.mark.parametrize(
    ("step", "given"), [("train", {}), ("evaluate", {}), ("register", {}), ("register", {"rollback": "true"})]
)
def test_a_scale_without_a_network_is_refused(step: str, given: dict[str, str]) -> None:
    assert refusal(step, given | {"scale": "4:3"}) == "scale: must be 1:1, 3:2, 2:1, 3:1 or 4:1, got 4:3"


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_number_must_be_finite(text: str) -> None:
    assert refusal("train", {"learning_rate": text}).startswith("learning_rate: must be ")


def test_settings_are_immutable() -> None:
    settings = parse_settings("train", {})
    with pytest.raises(ValueError, match="frozen"):
        settings.steps = 1


def test_evaluation_and_decay_intervals_derive_from_the_steps() -> None:
    given = {"schedule": "exponential", "steps": "2000"}
    settings = parse_settings("train", given)
    assert (settings.decay_steps, settings.eval_every) == (30, 125)
    settings = parse_settings("train", given | {"decay_steps": "7", "eval_every": "9"})
    assert (settings.decay_steps, settings.eval_every) == (7, 9)
    settings = parse_settings("train", given | {"steps": "1"})
    assert (settings.decay_steps, settings.eval_every) == (1, 1)


@pytest.mark.parametrize("network", TRAINED)
def test_flops_replace_steps(network: str) -> None:
    counted = parse_settings("train", {"network": network, "flops": "3e12", "schedule": "exponential"})
    assert (counted.flops, counted.decay_steps, counted.eval_every) == (3e12, None, None)
    assert "steps" not in counted.to_texts()
    assert counted.to_texts()["flops"] == "3e12"
    line = refusal("train", {"network": network, "flops": "3e12", "steps": "30"})
    assert line == "steps: has no effect with flops=3e12, got 30"
    assert parse_settings("train", {"network": network, "flops": "none", "steps": "30"}).steps == 30
    for text in ("0", "-1", "nan", "inf", "soon"):
        assert refusal("train", {"network": network, "flops": text}).startswith("flops: must be ")


@pytest.mark.parametrize("name", ["eval_every", "decay_steps"])
def test_intervals_are_none_only_with_flops(name: str) -> None:
    schedule = {"schedule": "exponential"}
    assert refusal("train", schedule | {name: "none"}) == f"{name}: must be >= 1, got none"
    assert refusal("train", schedule | {name: "0"}).startswith(f"{name}: must be ")
    assert getattr(parse_settings("train", schedule | {"flops": "9", name: "none"}), name) is None
    assert getattr(parse_settings("train", schedule | {"flops": "9", name: "7"}), name) == 7


def test_smoke_with_flops_does_not_set_steps() -> None:
    small = parse_settings("train", {"network": "perceptron", "smoke": "true", "flops": "9"})
    assert (small.flops, small.hidden) == (9.0, (32, 16))
    assert "steps" not in small.model_fields_set
    assert parse_settings("train", small.to_texts()).model_dump() == small.model_dump()


@pytest.mark.parametrize("flops", ["none", " None ", "", None])
def test_smoke_without_flops_sets_steps(flops: str | None) -> None:
    small = parse_settings("train", {"smoke": "true", "flops": flops})
    assert small.steps == GradientTrain.SMOKE["steps"]


@pytest.mark.parametrize("smoke", ["false", "true"])
@pytest.mark.parametrize("network", TRAINED)
def test_computed_steps_set_the_intervals(network: str, smoke: str) -> None:
    given = {"network": network, "schedule": "exponential", "smoke": smoke, "learning_rate": "0.01"}
    counted = parse_settings("train", given | {"flops": "3e12"})
    assert counted.with_steps(3200).model_dump() == parse_settings("train", given | {"steps": "3200"}).model_dump()
    assert (counted.with_steps(3200).decay_steps, counted.with_steps(3200).eval_every) == (48, 200)
    assert counted.with_steps(1).eval_every == 1
    assert type(counted.with_steps(9)) is type(counted)
    own = parse_settings("train", given | {"flops": "3e12", "eval_every": "5", "decay_steps": "6"}).with_steps(3200)
    assert (own.eval_every, own.decay_steps, own.flops) == (5, 6, None)
    assert parse_settings("train", given | {"steps": "7"}).with_steps(3200).steps == 3200
    for texts in (counted.to_texts(), given | {"flops": "3e12", "eval_every": "none", "decay_steps": "none"}):
        assert parse_settings("train", texts).with_steps(3200).model_dump() == counted.with_steps(3200).model_dump()


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://loupe:s3cret@host:5432/studies", "postgresql://loupe:***@host:5432/studies"),
        ("postgresql+psycopg://loupe:s3:cr@et@host/studies", "postgresql+psycopg://loupe:***@host/studies"),
        ("postgresql://loupe@host/studies", "postgresql://loupe@host/studies"),
        ("mysql://:s3cret@host/studies", "mysql://:***@host/studies"),
        ("sqlite:///studies.db", "sqlite:///studies.db"),
        ("studies/optuna.journal", "studies/optuna.journal"),
    ],
)
def test_the_params_of_a_sweep_hide_a_password(storage: str, shown: str) -> None:
    settings = parse_settings("sweep", {"storage": storage})
    assert settings.storage == storage
    assert settings.to_texts()["storage"] == shown
    assert "s3" not in str(settings.to_texts())


@pytest.mark.parametrize("step", STEPS)
def test_a_step_has_only_the_common_fields_that_it_uses(step: str) -> None:
    prepares = {"data_dir", "scheduler", "seed", "smoke"}
    used = {
        "register": {"data_dir"}, "report": {"data_dir"}, "sync": set(), "upscale": set(),
        "restore": set(), "demo": set(),
    }  # fmt: skip
    assert STEPS[step].model_fields.keys() & prepares == used.get(step, prepares)


def test_every_field_is_read_by_the_code() -> None:
    read = set()
    for file in Path(loupe.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and "config" not in file.parts:
                read.add(node.value)
    # All fields of an optimizer are arguments of its Keras class.
    passed = {name for optimizer in OPTIMIZERS.values() for name in optimizer.model_fields}
    assert {name for _, _, name in FIELDS} - passed <= read
