"""Whether an experiment tracker can be written to."""

import os

from run.program import InputError


def check_tracker(name: str) -> None:
    """Raise InputError if the tracker is not installed, or would ask for a key that nobody is there to type."""
    from transformers.integrations import get_available_reporting_integrations

    if name not in get_available_reporting_integrations():
        raise InputError(f"--tracking {name}: not installed; fix: pip install {name}, or use --tracking none")
    if name != "wandb" or os.environ.get("WANDB_MODE", "online") != "online":
        return
    import wandb

    if not wandb.login(prompt=False):
        raise InputError(
            "--tracking wandb: no key; fix: export WANDB_API_KEY=... (or run: wandb login), or export "
            "WANDB_MODE=offline and send the runs later by: wandb sync"
        )
