"""Whether a config has the shape of resources/config.schema.yaml; if not, what to write instead."""

import datetime
import difflib
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from graph.problems import YAML, Faultless, Problems
from graph.recipe import stage_schema
from run.files import canonical

LARGEST = 2**53  # whole numbers up to which every reader of JSON, and a float, is exact
ALIKE = 0.7  # of 1: a key is taken for another that looks so much like it
NAMED = "a name of lower-case letters, digits and _, a letter first"
# The types of JSON schema, as a person calls them who writes YAML.
TYPES = {
    "object": "a mapping, {key: value}",
    "array": "a list, [one, another]",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
SIZES = {
    "minItems": "is too short a list; fix: at least {} of them",
    "maxItems": "is too long a list; fix: at most {} of them",
    "minLength": "is empty; fix: write some text",
}
LIMITS = {
    "minimum": "{} or more",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
}


def check_values(problems: Problems) -> None:
    """The config holds what JSON can say and every program reads alike, in which its parts go to them."""
    check_value((), problems.config, problems)


def check_value(path: tuple[Any, ...], value: Any, problems: Problems) -> None:
    """A value of the config, and all that is in it. YAML reads days, and whole numbers of any length."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                problems.add((*path, key), f'the key {key} is not text; fix: write `"{key}": ...`')
            check_value((*path, key), inner, problems)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            check_value((*path, place), inner, problems)
    elif isinstance(value, datetime.date):
        line = f'"{value}"' if isinstance(path[-1], int) else f'{path[-1]}: "{value}"'
        problems.add(path, f"YAML reads {value} as a day, not as text; fix: write `{line}`")
    elif isinstance(value, float) and not math.isfinite(value):
        problems.add(path, f"{value} is no number to compute with; fix: a finite one")
    elif isinstance(value, int) and abs(value) > LARGEST:
        problems.add(path, f"too large a whole number; fix: at most {LARGEST}")
    elif not isinstance(value, str | int | float | None):
        problems.add(path, f"{reprlib.repr(value)} is neither text nor a number; fix: write it without the YAML tag")


def check_schema(schema: str | Path, problems: Problems) -> None:
    """The config has the keys and types of the schema (YAML), but for what is wrong already."""
    import jsonschema

    shape = yaml.load(Path(schema).read_text(encoding="utf-8"), YAML)
    rest = problems.of_the_rest().config
    config = {name: dict(value) if isinstance(value, Faultless) else value for name, value in rest.items()}
    shape["required"] = [name for name in shape["required"] if name in config or name not in problems.config]
    shape["properties"]["stages"]["additionalProperties"], definitions = stage_schema()
    definitions["Data"]["fix"] = "`data: {from: <one of datasets>}`"
    shape["$defs"] |= definitions
    # JSON Schema takes 42.0 for an integer
    whole = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=whole)(shape)
    errors = sorted(validator.iter_errors(config), key=lambda each: list(map(str, each.absolute_path)))
    chosen, typed = ([each.absolute_path for each in errors if each.validator == kind] for kind in ("enum", "type"))
    misspelt = {(*each.absolute_path, name) for each in errors for name in meant_keys(each).values()}
    for error in errors:
        if error.validator == "required" and (*error.absolute_path, error.message.split("'")[1]) in misspelt:
            continue
        if error.validator == "type" and error.absolute_path in chosen:
            continue  # its choices are named
        if error.validator in LIMITS and error.absolute_path in typed:
            continue
        unknown = unknown_keys(error) if error.validator == "additionalProperties" else []
        named = [error.instance] if "propertyNames" in error.absolute_schema_path else []
        said = explain(error)
        if unknown and not error.absolute_path:
            said = misplaced(config, unknown[0]) or said
        problems.add((*error.absolute_path, *unknown[:1], *named), said)


def explain(error: Any) -> str:
    """A jsonschema error in words, with the line to write instead."""
    value, kind = error.instance, error.validator
    if kind == "additionalProperties":
        return of_unknown(error)
    if kind == "type":
        return of_text(error) or of_type(error)
    if kind == "uniqueItems":
        return of_duplicates(error)
    if kind == "enum":
        return of_choices(error)
    if kind in LIMITS:
        return f"{error.message}; fix: {LIMITS[kind].format(error.validator_value)}"
    if kind == "required":
        return f"{error.message}; fix: add it{choices_of(error)}"
    if kind == "pattern":
        return f"{reprlib.repr(value)} cannot be; fix: write {error.schema.get('fix', NAMED)}"
    return f"{reprlib.repr(value)} {SIZES[kind].format(error.validator_value)}"


def choices_of(error: Any) -> str:
    """What a key may be that is missing, if that is one of a few."""
    name = error.message.split("'")[1]
    choices = error.schema.get("properties", {}).get(name, {}).get("enum", [])
    return f", `{name}: {choices[0]}` or {', '.join(map(str, choices[1:]))}" if choices else ""


def key_of(error: Any) -> str | int:
    """The key, or the place in a list, of what an error is about."""
    return error.absolute_path[-1] if error.absolute_path else ""


def types_of(error: Any) -> list[str]:
    """The types that a value may have, of an error about its type."""
    return error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]


def of_unknown(error: Any) -> str:
    """A key that a mapping does not know."""
    known, unknown = list(error.schema.get("properties", {})), unknown_keys(error)
    if not error.absolute_path and (inside := section_of(unknown[0], error.schema)):
        return f"unknown key {unknown[0]}; fix: move it to where it belongs, `{inside}`"
    meant = [f"{key}: {abridged(error.instance[name])}" for name, key in meant_keys(error).items()]
    fix = f"write `{'`, `'.join(meant)}`" if meant else f"one of {', '.join(known)}"
    return f"unknown key {', '.join(unknown)}; fix: {fix}"


def meant_keys(error: Any) -> dict[str, str]:
    """The unknown keys of an additionalProperties error, and the known ones that they look like."""
    if error.validator != "additionalProperties":
        return {}
    known = list(error.schema.get("properties", {}))
    close = {name: difflib.get_close_matches(name, known, 1, ALIKE) for name in unknown_keys(error)}
    return {name: keys[0] for name, keys in close.items() if keys}


def abridged(value: Any) -> str:
    """A value as a line of YAML may have it; one that is long as two dots."""
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) < 80 and "\n" not in text else ".."


def of_text(error: Any) -> str:
    """A value that YAML or the command line took for another type than was meant; "" for others."""
    key, value, expected = key_of(error), error.instance, types_of(error)
    if isinstance(value, bool) and expected == ["string"]:
        return f"YAML reads yes, no, on and off as {value}; fix: write the word in quotes, or choose another"
    if isinstance(value, str):
        if re.fullmatch(r"[0-9]+e[-+]?[0-9]+", value, re.IGNORECASE):
            digits, exponent = re.split("e", value, flags=re.IGNORECASE)
            return f"YAML reads {value} as text, not as a number; fix: write `{key}: {digits}.0e{int(exponent)}`"
        if re.fullmatch(r"[-+0-9.eE]+", value) and {"integer", "number"} & set(expected):
            line = value if isinstance(key, int) else f"{key}: {value}"
            return f"{value!r} is text, not a number; fix: write `{line}` without quotes"
    if value in ("true", "false", "null"):
        return (
            f"{value!r} is text here; fix: write `{key}: {value}` in a file, and give it by --configfile: on the "
            "command line Snakemake reads it as text"
        )
    return ""


def of_type(error: Any) -> str:
    """A value of another type than those that may be."""
    key, value, expected = key_of(error), error.instance, types_of(error)
    fix = " or ".join(TYPES[name] for name in expected)
    if expected[0] == "array" and isinstance(key, int):
        fix = "lists in the list, [[one, another]]"
    elif expected[0] == "array" and isinstance(value, str | int) and re.fullmatch(r"(?!True|False)[\w.-]+", str(value)):
        fix = f"`{key}: [{value}]`"
    elif "fix" in error.schema and "pattern" not in error.schema:
        fix = error.schema["fix"]
    elif "string" in expected and isinstance(value, int | float):
        fix = f'`{key}: "{value}"`'
    if value is None or isinstance(value, bool):
        return f"cannot be {'null' if value is None else str(value).lower()}; fix: write {fix}"
    return f"{reprlib.repr(value)} is {TYPES[type_name(value)]}; fix: write {fix}"


def of_duplicates(error: Any) -> str:
    """A list that has something twice."""
    value = error.instance
    twice = [item for index, item in enumerate(value) if item in value[:index]]
    kept = ", ".join(dict.fromkeys(map(str, value)))
    if len(kept.split(", ")) < error.schema.get("minItems", 0):
        return f"{', '.join(map(str, twice))} is duplicated; fix: name different ones"
    return f"{', '.join(map(str, twice))} is duplicated; fix: write `{key_of(error)}: [{kept}]`"


def of_choices(error: Any) -> str:
    """A value that is none of those that may be."""
    key, value = key_of(error), error.instance
    choices = [str(choice) for choice in error.validator_value]
    if value in choices and value not in error.validator_value:
        return f"{value!r} is text, not a number; fix: write `{key}: {value}` without quotes"
    close_choices = difflib.get_close_matches(str(value), choices, 1) or choices
    more = f" ({error.schema['fix']})" if "fix" in error.schema else ""
    return f"{value!r} is not one of {', '.join(choices)}; fix: write `{key}: {close_choices[0]}`{more}"


def type_name(value: Any) -> str:
    """The name that JSON schema has for the type of a value."""
    if isinstance(value, bool):
        return "boolean"
    known = {int: "integer", float: "number", str: "string", list: "array", type(None): "null"}
    return known.get(type(value), "object")


def section_of(key: str, schema: Mapping[str, Any]) -> str:
    """How a key is written that a section of the config knows, or every entry of one; "" if none does."""
    for section, own in schema["properties"].items():
        if key in own.get("properties", {}):
            return f"{section}: {{{key}: ...}}"
        each = own.get("additionalProperties")
        if isinstance(each, Mapping) and key in each.get("properties", {}):
            return f"{section}: {{<name>: {{{key}: ...}}}}"
    return ""


def misplaced(config: Mapping[str, Any], key: str) -> str:
    """What is said of an unknown key of the config that is a path with dots, or an entry of a section; else ""."""
    value = canonical(config[key])
    *above, last = key.split(".")
    if above:
        nested = "".join(f"{name}: {{" for name in above) + f"{last}: {value}" + "}" * len(above)
        return f"unknown key {key}; fix: write `{nested}`"
    for section in ("stages", "cells", "evaluations", "datasets", "arms"):
        if key in (config.get(section) or ()):
            return f"unknown key {key}; fix: write `{section}: {{{key}: {value}}}`"
    return ""


def unknown_keys(error: Any) -> list[str]:
    """The keys that an additionalProperties error of jsonschema is about."""
    return [name for name in error.instance if name not in error.schema.get("properties", {})]
