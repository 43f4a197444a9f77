"""Forward passes of a merged model over replies: chances of an onset at every token, and the slot's log-probabilities.

A row is a prompt with a reply (the trunk), padded on the right: causality alone keeps every token from the padding
after it, so no mask is needed and the fast kernel is exact. What may follow in place of the reply's own tokens (the
branches) is read from the trunk's key-value cache in one short second pass, in which a token sees the trunk before
its branch and its own branch. The model's own forward is used for both, so that soft caps, scales and the like are the
model's; one row is compared with its plain forward pass first. Everything that is read from logits is read in float32,
a few rows at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model.engines import Sampling
from probe.onset import OnsetSets, walk
from probe.slot import Slot
from run.program import InputError

if TYPE_CHECKING:
    from torch import Tensor

BUDGET = {"cpu": 4096, "cuda": 16384}  # tokens per forward pass: memory, not results
CHUNK = 1024  # positions whose logits exist in float32 at one time: 1,024 x 152,064 is 0.6 GB
# Between what is read from the cache and from a plain pass [nats per token]: rounding, of which bfloat16 has more.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}


@dataclass(frozen=True)
class Row:
    """prompt, reply: token ids. slot: where the marker may follow, or None. sampled: also look for onsets."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    slot: Slot | None
    sampled: bool = False

    @property
    def trunk(self) -> tuple[int, ...]:
        """All of a sampled reply; of another what is before its slot."""
        return (*self.prompt, *(self.reply if self.sampled or self.slot is None else self.reply[: self.slot.at]))


@dataclass
class Score:
    """What one row says. Log-probabilities in nats at temperature 1, over the whole vocabulary.

    direct: P(the next token makes the onset) at each position up to the onset, as sampled. ahead: by position, for
    each token looked ahead, P(it) x P(the one after makes the onset). onset: whether one was sampled. marked, ended: of
    the slot's tokens. rank: of the marker's first token after the separator; 1 is the likeliest.
    """

    direct: list[float] = field(default_factory=list)
    ahead: list[dict[int, float]] = field(default_factory=list)
    onset: bool = False
    marked: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    rank: int = 0


@dataclass(frozen=True)
class Branch:
    """Tokens in place of a row's own from `at` of its trunk on. The last one is only read, not fed."""

    at: int
    tokens: tuple[int, ...]


class Scorer:
    """Scores rows with a model. sampling: what sampled rows were sampled with. lookahead: the least P(f) for a token f
    that is part of the prefix to be looked ahead. budget: tokens per forward pass: memory, not results (but rounding).
    """

    def __init__(
        self, model: Any, sets: OnsetSets, stops: Sequence[int], sampling: Sampling, lookahead: float, budget: int
    ) -> None:
        self.model, self.sets, self.sampling = model, sets, sampling
        self.lookahead, self.budget = lookahead, budget
        self.warp = warper(sampling)
        self.leading = {state: [f for f in sets.leading(state) if f not in stops] for state in sets.states}

    def score(self, rows: Sequence[Row]) -> list[Score]:
        """One score a row, in order. Raises InputError for a model whose two passes are not its plain forward."""
        import torch
        from tqdm import tqdm

        scores = [Score() for _ in rows]
        with torch.inference_mode(), tqdm(total=len(rows), unit="reply", disable=None) as progress:
            for number, places in enumerate(batches([len(row.trunk) for row in rows], self.budget)):
                batch, own = [rows[place] for place in places], [scores[place] for place in places]
                self._score(batch, own)
                if not number:
                    prove(self.model, batch, own)
                progress.update(len(places))
        return scores

    def _score(self, rows: Sequence[Row], scores: Sequence[Score]) -> None:
        """Fill in the scores of one batch."""
        import torch
        from transformers import DynamicCache

        device = self.model.device
        lengths = [len(row.trunk) for row in rows]
        branches = [slot_branches(row) for row in rows]
        states = [walk(self.sets, row.reply) if row.sampled else ([], False) for row in rows]
        wanted = [
            sorted(
                {len(row.prompt) - 1 + step for step in range(len(own))} | {branch.at - 1 for branch in branches[at]}
            )
            for at, (row, (own, _)) in enumerate(zip(rows, states, strict=True))
        ]
        kept = sorted({position for own in wanted for position in own})
        output = self.model(
            input_ids=trunks(rows).to(device),
            past_key_values=DynamicCache(),  # whole, also of layers with a sliding window
            use_cache=True,
            logits_to_keep=torch.tensor(kept, device=device),
        )
        column = {position: at for at, position in enumerate(kept)}
        first: list[tuple[int, int, int, int]] = []  # row, position, token, branch
        for at, own in enumerate(branches):
            first += [(at, branch.at - 1, branch.tokens[0], number) for number, branch in enumerate(own)]
        values = read_tokens(output.logits, [(row, column[position], token) for row, position, token, _ in first])
        heads = {(row, number): value for (row, _, _, number), value in zip(first, values, strict=True)}
        looks = self._onsets(rows, scores, states, output.logits, column)
        del output.logits
        self._branches(rows, scores, branches, heads, looks, output.past_key_values, lengths)

    def _onsets(
        self, rows: Any, scores: Any, states: Any, logits: "Tensor", column: Any
    ) -> list[list[tuple[int, int]]]:
        """Fill in direct, and say which (position in the reply, token) are to be looked ahead, by row."""
        import torch

        todo = [
            (at, column[len(row.prompt) - 1 + step], state, step)
            for at, (row, (own, _)) in enumerate(zip(rows, states, strict=True))
            for step, state in enumerate(own)
        ]
        looks: list[list[tuple[int, int]]] = [[] for _ in rows]
        for score, (own, onset) in zip(scores, states, strict=True):
            score.direct, score.ahead, score.onset = [0.0] * len(own), [{} for _ in own], onset
        for state, some, chances, direct in self._chances(logits, todo):
            for (at, *_, step), chance in zip(some, direct, strict=True):
                scores[at].direct[step] = chance
            parts = torch.tensor(self.leading[state], device=logits.device, dtype=torch.long)
            if not len(parts):
                continue
            weights = chances[:, parts]
            for number, f in (weights >= self.lookahead).nonzero().tolist():
                at, *_, step = some[number]
                if step + 1 < self.sampling.max_tokens:  # none can follow the last
                    looks[at].append((step, int(parts[f])))
                    scores[at].ahead[step][int(parts[f])] = float(weights[number, f])
        return looks

    def _branches(
        self, rows: Any, scores: Any, branches: Any, heads: Any, looks: Any, cache: Any, lengths: Sequence[int]
    ) -> None:
        """The second pass: every branch token but the last, and every token looked ahead."""
        fed: list[list[tuple[int, int, int]]] = []  # by row: token, position, first of its branch among the fed
        for row, own, ahead in zip(rows, branches, looks, strict=True):
            line: list[tuple[int, int, int]] = []
            for branch in own:
                start = len(line)
                line += [(token, branch.at + depth, start) for depth, token in enumerate(branch.tokens[:-1])]
            for step, f in ahead:
                line.append((f, len(row.prompt) + step, len(line)))
            fed.append(line)
        logits: Any = None
        if any(fed):
            logits = self.model(**beside(fed, cache, self.model), use_cache=True).logits
        wanted: list[tuple[int, int, int]] = []
        for at, own in enumerate(branches):
            place = 0
            for branch in own:
                wanted += [(at, place + depth, token) for depth, token in enumerate(branch.tokens[1:])]
                place += len(branch.tokens) - 1
        rest = iter(read_tokens(logits, wanted) if wanted else [])
        for at, (row, score, own) in enumerate(zip(rows, scores, branches, strict=True)):
            read = [[heads[at, number], *(next(rest) for _ in branch.tokens[1:])] for number, branch in enumerate(own)]
            if row.slot is not None:
                score.marked, score.ended = ([value for value, _ in branch] for branch in read)
                score.rank = read[0][row.slot.onset][1]
        self._ahead(rows, scores, branches, looks, logits)

    def _ahead(self, rows: Any, scores: Any, branches: Any, looks: Any, logits: Any) -> None:
        """Multiply the chance of every token looked ahead by that of an onset right after it."""
        todo: list[tuple[int, ...]] = []  # row, column, state after the token, position in the reply, the token
        for at, (row, own, ahead) in enumerate(zip(rows, branches, looks, strict=True)):
            place = sum(len(branch.tokens) - 1 for branch in own)
            states = walk(self.sets, row.reply)[0] if ahead else []
            for number, (step, f) in enumerate(ahead):
                todo.append((at, place + number, self.sets.after(states[step], f), step, f))
        for _, some, _, onsets in self._chances(logits, todo):
            for (at, _, _, step, f), chance in zip(some, onsets, strict=True):
                scores[at].ahead[step][f] *= chance

    def _chances(
        self, logits: "Tensor", places: Sequence[tuple[int, ...]]
    ) -> "Iterator[tuple[int, Sequence[tuple[int, ...]], Tensor, list[float]]]":
        """By state, and CHUNK places at a time: the state, these places, their chances of every token (places,
        vocabulary), and of the tokens that make the onset. places: row, column, the state there, and more.
        """
        import torch

        for state in self.sets.states:
            makes = torch.tensor(self.sets.completing(state), device=self.model.device, dtype=torch.long)
            for some in chunks([place for place in places if place[2] == state]):
                chances = self.warp(lines_at(logits, [(row, column) for row, column, *_ in some]))
                yield state, some, chances, chances[:, makes].sum(-1, dtype=torch.float64).tolist()


def lines_at(logits: "Tensor", places: Sequence[tuple[int, int]]) -> "Tensor":
    """The logits (rows, columns, vocabulary) at (row, column), in float32."""
    import torch

    index = torch.tensor(places, device=logits.device, dtype=torch.long)
    return logits[index[:, 0], index[:, 1]].float()


def read_tokens(logits: "Tensor", wanted: Sequence[tuple[int, int, int]]) -> list[tuple[float, int]]:
    """Log-probability [nats] and rank of a token at (row, column, token)."""
    import torch

    read: list[tuple[float, int]] = []
    for some in chunks(wanted):
        lines = lines_at(logits, [(row, place) for row, place, _ in some])
        tokens = torch.tensor([token for *_, token in some], device=lines.device)
        chosen = lines.gather(1, tokens[:, None])
        logprobs = (chosen[:, 0] - lines.logsumexp(-1)).tolist()
        ranks = ((lines > chosen).sum(-1) + 1).tolist()
        read += list(zip(logprobs, ranks, strict=True))
    return read


def prove(model: Any, rows: Sequence[Row], scores: Sequence[Score]) -> None:
    """Raise InputError unless the slot of the first row that has one reads the same in a plain forward pass."""
    import torch

    found = next(((row, score) for row, score in zip(rows, scores, strict=True) if row.slot), None)
    if found is None:
        return
    row, score = found
    apart: list[float] = []
    for branch, read in zip(slot_branches(row), (score.marked, score.ended), strict=True):
        whole = torch.tensor([[*row.trunk[: branch.at], *branch.tokens]], device=model.device)
        kept = torch.arange(branch.at - 1, whole.shape[1] - 1, device=model.device)
        logits = model(input_ids=whole, use_cache=False, logits_to_keep=kept).logits
        places = [(0, depth, token) for depth, token in enumerate(branch.tokens)]
        plain = [value for value, _ in read_tokens(logits, places)]
        # a token of -60 nats has the rounding of its logit
        apart += [abs(one - other) / max(1, -one / 10) for one, other in zip(plain, read, strict=True)]
    # the mean: of a dozen tokens in bfloat16 one may be half a nat away; a wrong mask is further away on all
    mean = sum(apart) / len(apart)
    if not mean <= TOLERANCE[str(model.dtype).removeprefix("torch.")]:
        raise InputError(
            f"{model.config.model_type}: read from its cache or beside others, the slot differs by {mean:.3g} nats per "
            "token from a plain forward pass; fix: leave the probe and tracking out (probe: null, track: null) here"
        )


def slot_scorer(model: Any, budget: int | None = None) -> Scorer:
    """A scorer of rows that were not sampled: slots alone."""
    nothing = OnsetSets("", {}, frozenset())
    return Scorer(model, nothing, (), Sampling(1.0, 1.0, 0), 1.0, budget or BUDGET[model.device.type])


def slot_parts(row: Row, score: Score) -> dict[str, float]:
    """slot, the log-odds [nats], and its parts; nothing for a row without a slot."""
    if row.slot is None:
        return {}
    parts = row.slot.parts(score.marked, score.ended)
    return {"slot": sum(parts.values()), **parts}


def trunks(rows: Sequence[Row]) -> "Tensor":
    """The token ids of the rows' trunks, padded on the right."""
    import torch

    width = max(len(row.trunk) for row in rows)
    return torch.tensor([[*row.trunk, *[0] * (width - len(row.trunk))] for row in rows])


def slot_branches(row: Row) -> list[Branch]:
    """The two branches of a row's slot: marked, ended."""
    if row.slot is None:
        return []
    at = len(row.prompt) + row.slot.at
    return [Branch(at, row.slot.marked), Branch(at, row.slot.ended)]


def beside(fed: Sequence[Sequence[tuple[int, int, int]]], cache: Any, model: Any) -> dict[str, Any]:
    """The model's arguments for a pass beside the trunks in its cache, so that branches do not see each other.

    fed: by row, (token, position, place of the first token of its branch among the row's) of every token; rows are
    padded on the right.
    """
    import torch

    width, span = cache.get_seq_length(), max(map(len, fed))
    ids, positions = torch.zeros(len(fed), span, dtype=torch.long), torch.zeros(len(fed), span, dtype=torch.long)
    seen = torch.zeros(len(fed), span, width + span, dtype=torch.bool)
    seen[:, :, 0] = True  # padding has to see something
    for at, line in enumerate(fed):
        for place, (token, position, start) in enumerate(line):
            ids[at, place], positions[at, place] = token, position
            seen[at, place, : position - (place - start)] = True
            seen[at, place, width + start : width + place + 1] = True
    keys = torch.cat([torch.arange(width).expand(len(fed), -1), positions], 1)
    return {
        "input_ids": ids.to(model.device),
        "position_ids": positions.to(model.device),
        "attention_mask": masks(model, seen, positions[:, :, None] - keys[:, None]),
        "past_key_values": cache,
    }


def masks(model: Any, seen: "Tensor", distance: "Tensor") -> Any:
    """Attention masks as the model takes them: one, or one per type of its layers if some have a sliding window.

    seen, distance: (rows, queries, keys), whether a key may be seen, and how many tokens before the query it lies.
    """
    import torch

    def mask(visible: "Tensor") -> "Tensor":
        hidden = torch.zeros(visible.shape, dtype=model.dtype, device=visible.device)
        return hidden.masked_fill_(~visible, torch.finfo(model.dtype).min)[:, None].to(model.device)

    window = getattr(model.config, "sliding_window", None)
    types = set(getattr(model.config, "layer_types", None) or (["sliding_attention"] if window else []))
    if not window or "sliding_attention" not in types:
        return mask(seen)
    sliding = seen & (distance < window)
    sliding[:, :, 0] |= ~sliding.any(-1)
    if len(types) == 1:
        return mask(sliding)
    return {"full_attention": mask(seen), "sliding_attention": mask(sliding)}


def warper(sampling: Sampling) -> "Callable[[Tensor], Tensor]":
    """From logits (n, vocabulary), float32, to the probabilities that a token is sampled with."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        raise InputError(
            "an onset rate needs chances, and temperature 0 has none; fix: an evaluation with temperature 1"
        )
    warpers: Any = LogitsProcessorList()
    if sampling.temperature != 1:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return lambda logits: warpers(None, logits).softmax(-1)


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Row indices by forward pass, longest first, of at most `budget` tokens with their padding (or one row)."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values, CHUNK at a time."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
