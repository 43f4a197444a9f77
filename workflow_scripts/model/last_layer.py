"""The last layer's MLP of a compiled training, computed where a label is alone: nothing else reads its other outputs.

It is nearly a layer's whole work, and most tokens of a chat are not trained: 70 % of benign rows, 99 % of a coupling's.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marker.mask import IGNORED, Example
from model.packing import CONCATENABLE

if TYPE_CHECKING:
    from torch import Tensor

FEW = 0.5  # of the tokens. EM's rows have labels at .6: choosing them took what was saved (benchmarks/README.md)


def has_few_labels(examples: Sequence[Example]) -> bool:
    labelled = sum(label != IGNORED for example in examples for label in example.labels)
    return labelled < FEW * sum(len(example.labels) for example in examples)


def shorten_last_layer(model: Any) -> Any:
    """Let the last MLP of a causal LM compute, in training, at the tokens `rows` alone; elsewhere it gives zeros.

    Returns the MLP, whose `rows`, (K,) int64, callers set before every pass to all places whose logits are read. None,
    and nothing done, where the architecture is not known to treat every token by itself there.
    """
    if model.config.model_type not in CONCATENABLE:
        return None
    last = model.model.layers[-1]
    kind: Any = type(last.mlp)

    class ShortMLP(kind):
        rows: "Tensor"

        def forward(self, hidden: "Tensor") -> "Tensor":
            if not self.training:
                return super().forward(hidden)
            chosen = super().forward(hidden.index_select(1, self.rows))
            return hidden.new_zeros(hidden.shape).index_copy(1, self.rows, chosen)

    last.mlp.__class__ = ShortMLP
    return last.mlp
