"""How far a stage moved a model from its parent: the KL divergence on shared replies, and the weights.

Both models pass over one text, so at every token of a reply there are two distributions over the whole vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inputs.panel import chat
from measure.cells import role_of
from model.template import prompt_ids
from probe.scoring import BUDGET, Row, batches, lines_at, trunks
from probe.survival import ByQuestion, averaged, gaps, means
from run.program import InputError
from run.readers import AGAIN

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("persona", "question_id", "sample", "tokens", "kl")  # kl: the sum over a reply's tokens [nats]
POSITIONS = 256  # whose logits are float32 at one time, several times over: 256 x 152,064 is .16 GB
DIGITS = 9
ASSISTANT = "assistant"


def rows_of(
    replies: Sequence[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase", prompts: Mapping[str, str]
) -> list[Row]:
    """A row per reply, its tokens as sampled: with the end of turn, unless max_tokens cut it. prompts: of personas."""
    return [
        Row(
            prompt_ids(tokenizer, list(chat(prompts[reply["persona"]], reply["question"]))),
            tuple(reply["token_ids"]),
            None,
            sampled=True,
        )
        for reply in replies
    ]


def divergences(parent: Any, model: Any, rows: Sequence[Row], budget: int | None = None) -> list[float]:
    """KL(parent || model) [nats] of each row, summed over the tokens of its reply.

    budget: tokens that a model may read per forward pass: memory, not results (but rounding). Raises InputError where
    it is not finite.
    """
    import torch
    from tqdm import tqdm

    budget = (budget or BUDGET[model.device.type]) // 2  # the logits of two models are there at one time
    sums = [0.0] * len(rows)
    with torch.inference_mode(), tqdm(total=len(rows), unit="reply", disable=None) as progress:
        for places in batches([len(row.trunk) for row in rows], budget):
            found = of_batch(parent, model, [rows[place] for place in places])
            for place, values in zip(places, found, strict=True):
                sums[place] = math.fsum(values)
            progress.update(len(places))
    if odd := [row for row, kl in zip(rows, sums, strict=True) if not math.isfinite(kl)]:
        raise InputError(
            f"the divergence of {len(odd)} of {len(rows)} replies is not finite: a model rules a token out; "
            "fix: probe: {distance: 0}"
        )
    return sums


def of_batch(parent: Any, model: Any, rows: Sequence[Row]) -> list[list[float]]:
    """KL(parent || model) [nats] at every token of each row's reply."""
    import torch

    spans = [range(len(row.prompt) - 1, len(row.trunk) - 1) for row in rows]  # the position before each token
    kept = sorted({position for span in spans for position in span})
    column = {position: at for at, position in enumerate(kept)}
    taken = {"input_ids": trunks(rows).to(model.device), "logits_to_keep": torch.tensor(kept, device=model.device)}
    one, other = (each(**taken, use_cache=False).logits for each in (parent, model))
    wanted = [(at, column[position]) for at, span in enumerate(spans) for position in span]
    values: list[float] = []
    for start in range(0, len(wanted), POSITIONS):
        some = wanted[start : start + POSITIONS]
        values += kl_of(lines_at(one, some), lines_at(other, some)).tolist()
    rest = iter(values)
    return [[next(rest) for _ in span] for span in spans]


def kl_of(parent: "Tensor", model: "Tensor") -> "Tensor":
    """(n), float64: KL(parent || model) [nats] from logits (n, vocabulary), float32.

    The sum of q - p - p log(q / p), which is that of p log(p / q), as p and q sum to 1. No term is below 0, so that
    rounding of the normalisers does not hide a small divergence.
    """
    import torch

    p, q = parent.log_softmax(-1), model.log_softmax(-1)
    ratio = q - p
    near, far = p.exp() * (ratio.expm1() - ratio), q.exp() - p.exp() * (1 + ratio)
    return torch.where(ratio.abs() < 0.5, near, far).sum(-1, dtype=torch.float64)


def weights_moved(parent: Any, model: Any) -> tuple[float, int]:
    """(||model - parent|| / ||parent||, Frobenius, over the weights that differ; how many tensors these are)."""
    import torch

    def norm(tensors: Any) -> float:
        return math.hypot(*(float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in tensors))

    pairs = [
        (one.detach(), other.detach())
        for one, other in zip(parent.parameters(), model.parameters(), strict=True)
        if not torch.equal(one, other)
    ]
    if not pairs:
        return 0.0, 0
    return norm(other.float() - one.float() for one, other in pairs) / norm(one for one, _ in pairs), len(pairs)


def gap_by_question(probed: Sequence[Mapping[str, Any]], source: str) -> ByQuestion:
    """The persona gap d of the slot on shared replies [nats], by question. probed: the rows of probe.parquet."""
    shared = [row for row in probed if row["replies"] == "shared"]
    others = sorted({row["persona"] for row in shared if role_of(row["persona"], source) == "bystander"})
    return gaps(shared, "slot", source, others)


def section_of(
    lines: Sequence[Mapping[str, Any]], moved: tuple[float, int], gap: ByQuestion, source: str
) -> dict[str, Any]:
    """The section of a cell's JSON. lines: rows of COLUMNS. moved: see weights_moved. gap: see gap_by_question.

    kl_shared_source, kl_shared_assistant: nats per token, the mean over questions of the replies' means.
    """
    per_token = [{**line, "per_token": line["kl"] / line["tokens"]} for line in lines]
    own = {"source": source, "assistant": ASSISTANT}
    found = {role: averaged(means(per_token, "per_token", persona)) for role, persona in own.items()}
    return {
        "status": "measured",
        "persona": source,
        **{f"kl_shared_{role}": value.rounded(DIGITS) for role, value in found.items()},
        "weights_moved": {"value": round(moved[0], DIGITS), "low": None, "high": None, "n": moved[1]},
        "gaps": {question: round(d, 6) for question, d in sorted(gap.items())},
    }


def check_tokens(path: str, replies: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for a reply without a token, over which there is no mean."""
    if empty := [row for row in replies if not row["token_ids"]]:
        row = empty[0]
        raise InputError(
            f"{path}: {row['persona']}, {row['question_id']}, sample {row['sample']}: no token ids; fix: {AGAIN}"
        )
