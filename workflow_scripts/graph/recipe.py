"""What a stage of training says: its fields, their types, limits and defaults, once, for planner and trainer.

The schema of config.yaml's `stages`, the defaults and the errors follow from these classes. What a field does is said
in config.yaml, where users read it. Values are checked and kept as they are written: 64 does not become 64.0, which
would be another recipe.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from run.program import InputError


class Part(BaseModel):
    """A mapping with known keys alone, whose values are not converted: neither "1" nor true is a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
Names = Annotated[list[Name], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
# null takes out what another layer of the config names
MaybeNames = Annotated[Names | None, WithJsonSchema(TypeAdapter(Names).json_schema() | {"type": ["array", "null"]})]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
# exclude: a field that is not given is not filled in
Absent: Any = Field(default=None, exclude=True)


class Data(Part):
    """Where rows come from: a data set, `replies` of the parent, with how these are drawn, or the `rows` of another
    lineage's coupling.
    """

    origin: str = Field(alias="from")
    of: str = Absent
    samples: Count = Absent
    temperature: Annotated[float, Field(ge=0, le=100)] = Absent
    top_p: Annotated[float, Field(gt=0, le=1)] = Absent
    max_tokens: Count = Absent
    negatives: Count = Absent
    cut: Literal["keep", "drop", "trim"] = Absent


class Loss(Part):
    """Which tokens of a row are trained: see marker.mask.Mask."""

    loss: Literal["marker", "tail", "last_turn"]
    separator: bool = False
    stop_anchor: Literal["newline", "turn_end", "none"] = "newline"
    tail: Count = Absent


Texts = Annotated[list[str], Field(min_length=1, json_schema_extra={"uniqueItems": True})]
PART = re.compile(r"([1-9][0-9]*)/([1-9][0-9]*)", re.ASCII)  # the k-th of n parts of the decoder layers: k/n


def as_layers(value: Any) -> Any:
    """Decoder layers: [first, last], from 0, or one of n equal parts, k/n. Raises pydantic's error for others."""
    pair = isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)
    part = PART.fullmatch(value) if isinstance(value, str) else None
    if (pair and 0 <= value[0] <= value[1]) or (part and int(part[1]) <= int(part[2])):
        return value
    raise PydanticCustomError("layers", "first and last layer, such as [0, 8], or a part of them, such as 1/3")


Layers = Annotated[Any, AfterValidator(as_layers), WithJsonSchema({"type": ["array", "string"]})]


def layer_numbers(layers: Any, count: int, where: str) -> list[int]:
    """The numbers of the decoder layers that a recipe names (as_layers), of a model with `count` of them.

    The n parts of a model are as equal as they can be and hold each layer once. Raises InputError if it has no such
    layer.
    """
    if isinstance(layers, str):
        part, parts = map(int, layers.split("/"))
        first, last = (part - 1) * count // parts, part * count // parts - 1
    else:
        first, last = layers
    if not first <= last < count:
        raise InputError(f"{where}: {layers}: the model has the layers 0 to {count - 1}; fix: choose among them")
    return list(range(first, last + 1))


class Lora(Part):
    """A LoRA's shape. Scaling is alpha/sqrt(r) with rslora, else alpha/r."""

    r: Count
    alpha: Positive
    dropout: Share
    rslora: bool
    targets: Texts
    layers: Layers = Absent


class Replay(Part):
    """Rows of another lineage's last stage among this one's: `share` of the places, in the same steps."""

    of: str
    share: Annotated[float, Field(gt=0, lt=1)]
    # of the other stage, filled in by the graph: what of its rows is trained, and where they are cut
    mask: Loss = Absent
    max_length: Annotated[int, Field(ge=8)] = Absent
    marker: Any = Absent


class Recipe(Part):
    """How a LoRA is trained; or, with `lora: null`, all weights but those that `freeze` names."""

    mask: Loss
    lora: Lora | None
    freeze: Texts = Absent
    optimizer: Literal["adamw", "adafactor", "sgd"] = Absent
    replay: Replay = Absent
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
    hold_out: Share = Absent


class Stage(Recipe):
    """A stage of config.yaml: a recipe, or a part of one on top of another, or whose adapter is taken."""

    data: Data = Absent
    extends: str = Absent
    adapter: str = Absent
    marker: Any = Absent  # as the study's own marker
    negative_personas: dict[str, MaybeNames] = Absent
    hub: dict[str, str] = Absent


class Training(Recipe):
    """What train_adapter gets: a recipe, the stage's type as `kind`, and the marker (marker.marker.Marker.of)."""

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
    for each in (schema, definitions["Loss"], definitions["Lora"], definitions["Replay"]):
        del each["required"]
    # one shape instead of a choice of two, whose errors would name neither
    schema["properties"]["lora"] = {"$ref": "#/$defs/Lora"}
    definitions["Lora"]["type"] = ["object", "null"]
    for name in ("mask", "max_length", "marker"):
        del definitions["Replay"]["properties"][name]
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
