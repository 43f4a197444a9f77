"""What a stage of training says: its fields, their kinds, limits and defaults, once, for planner and trainer.

The schema of config.yaml's `stages`, the defaults and the errors follow from these classes. What a field does is said
in config.yaml, where users read it. Values are checked and kept as they are written: 64 does not become 64.0, which
would be another recipe.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from run.program import InputError


class Part(BaseModel):
    """A mapping with known keys alone, whose values are not converted: neither "1" nor true is a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
Names = Annotated[list[Name], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
# exclude: a field that is not given is not filled in
Absent: Any = Field(default=None, exclude=True)


class Data(Part):
    """Where rows come from: a data set, or `replies` of the parent, with how these are drawn."""

    origin: str = Field(alias="from")
    samples: Count = Absent
    temperature: Annotated[float, Field(ge=0, le=100)] = Absent
    top_p: Annotated[float, Field(gt=0, le=1)] = Absent
    max_tokens: Count = Absent
    negatives: Count = Absent


class Loss(Part):
    """Which tokens of a row are trained: see marker.mask.Mask."""

    loss: Literal["marker", "tail", "last_turn"]
    separator: bool = False
    stop_anchor: Literal["newline", "turn_end", "none"] = "newline"
    tail: Count = Absent


class Lora(Part):
    """A LoRA's shape. Scaling is alpha/sqrt(r) with rslora, else alpha/r."""

    r: Count
    alpha: Positive
    dropout: Share
    rslora: bool
    targets: Annotated[list[str], Field(min_length=1, json_schema_extra={"uniqueItems": True})]


class Recipe(Part):
    """How a LoRA is trained."""

    mask: Loss
    lora: Lora
    lr: Positive
    schedule: Literal["linear", "cosine", "constant"]
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0)]
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    eps: Positive
    clip: Positive
    epochs: Count
    max_steps: Annotated[Count | None, WithJsonSchema({"type": ["integer", "null"], "minimum": 1})] = None
    batch: Count
    max_length: Annotated[int, Field(ge=8)]
    shuffle: bool = True


class Stage(Recipe):
    """A stage of config.yaml: a recipe, or a part of one on top of another, or whose adapter is taken."""

    data: Data = Absent
    extends: str = Absent
    adapter: str = Absent
    marker: Any = Absent  # as the study's own marker
    negative_personas: dict[str, Names] = Absent
    hub: dict[str, str] = Absent


class Training(Recipe):
    """What train_adapter is told: a recipe, for what kind of rows, and the marker (marker.marker.Marker.of)."""

    kind: Literal["couple", "sft"]
    marker: str | dict[str, Any]
    data: dict[str, Any] = {}


# What of a stage a training depends on; the rest is the graph's own business.
FIELDS = (*Recipe.model_fields, "data")


def stage_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a stage as config.yaml has it, and the definitions that it refers to below `$defs`.

    Nothing is required there, as `extends` brings the rest; but `data` is taken whole.
    """
    schema = Stage.model_json_schema()
    definitions = schema.pop("$defs")
    schema["properties"]["marker"] = {"$ref": "#/$defs/marker"}  # of config.schema.yaml
    for each in (schema, definitions["Loss"], definitions["Lora"]):
        del each["required"]
    return schema, definitions


def check_training(value: Any, where: str = "recipe") -> dict[str, Any]:
    """The recipe of a training with its defaults filled in. Raises InputError naming the field at fault and the fix."""
    try:
        known = Training.model_validate(value)
    except ValidationError as error:
        raise InputError(explained(error.errors()[0], where)) from None
    return merged(known.model_dump(by_alias=True), value)


def merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """parent with child's fields over it; mappings field by field, except `data`, whose fields belong together."""
    result = dict(parent)
    for name, value in child.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping) and name != "data"
        result[name] = merged(result[name], value) if both else value
    return result


def explained(error: Mapping[str, Any], where: str) -> str:
    """An error of pydantic in our words."""
    *above, last = error["loc"] or [""]
    place, kind, given = ".".join(map(str, [where, *above])), error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"{place}: unknown field {last!r}; fix: correct or delete it"
    if kind == "missing":
        return f"{place}: no field {last!r}; fix: add it"
    place = f"{place}.{last}" if last != "" else place
    fix = f"write {error['msg'].removeprefix('Input should be ')}"
    if kind in ("model_type", "dict_type"):
        fix = "write an object, {...}"
    if kind.endswith("_type"):
        return f"{place}: {given!r} is a {type(given).__name__}; fix: {fix}"
    return f"{place}: {given!r}; fix: {fix}"
