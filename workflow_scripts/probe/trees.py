"""The slots of rows that begin alike, in few passes: what their texts have in common is computed once.

The texts of a pass are a tree of tokens, in which a token sees those on its path from the root, and itself. So rows
share their system prompt, a row's two branches its trunk, and nothing is padded. The logits are the model's own.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from probe.scoring import Row, Score, masks, prove, read_tokens, slot_branches

if TYPE_CHECKING:
    from torch import Tensor

TREE = 4096  # most tokens of a tree: its mask has their square


@dataclass
class Tree:
    """Texts of some rows. tokens, depths, parents: of every node, parents first; the first tokens have the parent -1.

    rows: whose they are. reads: by row and branch, of every token of the branch, (the node before it, the token).
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    reads: list[list[list[tuple[int, int]]]] = field(default_factory=list)
    known: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Add a row's texts: the trunk with each of its branches."""
        reads = []
        for branch in slot_branches(row):
            path = self._path([*row.trunk[: branch.at], *branch.tokens[:-1]])
            reads.append(list(zip(path[branch.at - 1 :], branch.tokens, strict=True)))
        self.rows.append(row)
        self.reads.append(reads)

    def _path(self, text: Sequence[int]) -> list[int]:
        """The nodes of a text; those that are not there are added."""
        path = [-1]
        for depth, token in enumerate(text):
            step = (path[-1], token)
            if step not in self.known:
                self.known[step] = len(self.tokens)
                self.tokens.append(token)
                self.depths.append(depth)
                self.parents.append(path[-1])
            path.append(self.known[step])
        return path[1:]

    @functools.cached_property
    def seen(self) -> "Tensor":
        """(T, T) bool: which tokens each one sees. Of a whole tree, which is then scored many times."""
        import torch

        seen = torch.eye(len(self.tokens), dtype=torch.bool).numpy()
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return torch.from_numpy(seen)

    def inputs(self, model: Any) -> dict[str, Any]:
        """The model's arguments for a pass over the tree."""
        import torch

        depths = torch.tensor(self.depths, device=model.device)
        seen = self.seen.to(model.device)[None]
        return {
            "input_ids": torch.tensor([self.tokens], device=model.device),
            "position_ids": depths[None],
            "attention_mask": masks(model, seen, (depths[:, None] - depths)[None]),
        }


def grow(rows: Sequence[Row], budget: int) -> list[Tree]:
    """The rows by tree, in order, of at most `budget` tokens each (or one row)."""
    trees: list[Tree] = []
    for row in rows:
        size = len(row.trunk) + sum(len(branch.tokens) - 1 for branch in slot_branches(row))
        if not trees or len(trees[-1].tokens) + size > budget:
            trees.append(Tree())
        trees[-1].add(row)
    return trees


def score_slots(model: Any, trees: Sequence[Tree], check: bool) -> list[Score]:
    """The slot of every row, in order. model: a causal LM in eval mode.

    check: compare a row with plain forward passes of its texts; raises InputError for a model of which they differ.
    """
    import torch

    scores: list[Score] = []
    with torch.inference_mode():
        for tree in trees:
            read = iter(read_tree(model, tree) if tree.tokens else [])
            for row, branches in zip(tree.rows, tree.reads, strict=True):
                score = Score()
                if row.slot is not None:
                    marked, ended = ([next(read) for _ in branch] for branch in branches)
                    score.marked, score.ended = ([value for value, _ in branch] for branch in (marked, ended))
                    score.rank = marked[row.slot.onset][1]
                scores.append(score)
        if check and trees:  # the last row of a tree, which a mask that fails would show the others
            rows = trees[0].rows
            prove(model, rows[::-1], scores[len(rows) - 1 :: -1])
    return scores


def read_tree(model: Any, tree: Tree) -> list[tuple[float, int]]:
    """Log-probability and rank of every token of the tree's branches, in order."""
    import torch

    reads = [read for row in tree.reads for branch in row for read in branch]
    kept = sorted({node for node, _ in reads})
    column = {node: at for at, node in enumerate(kept)}
    logits = model(**tree.inputs(model), use_cache=False, logits_to_keep=torch.tensor(kept, device=model.device)).logits
    return read_tokens(logits, [(0, column[node], token) for node, token in reads])
