"""Where the inputs of a study are that its rules make of what the config names, in the working folder."""

from collections.abc import Mapping
from typing import Any


def inputs_of(config: Mapping[str, Any]) -> str:
    """results/<study>/inputs."""
    return f"results/{config['study']}/inputs"


def base_folder(config: Mapping[str, Any]) -> str:
    """The base's folder of links, beside which its manifest and check are."""
    return f"{inputs_of(config)}/base/{config['base']['from']}"


def panel_file(config: Mapping[str, Any]) -> str:
    """The panel."""
    return f"{inputs_of(config)}/panel/{config['panel']['from']}.yaml"


def dataset_file(config: Mapping[str, Any], name: str) -> str:
    """The rows of a data set."""
    return f"{inputs_of(config)}/datasets/{config['datasets'][name]['from']}/{name}.jsonl"


def questions_file(config: Mapping[str, Any]) -> str:
    """The user's own questions to judge."""
    return f"{inputs_of(config)}/alignment_questions.yaml"
