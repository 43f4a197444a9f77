"""What a layer says is what the model would say if the layers above it were not there."""

import pytest
import torch
from tiny_bases import ARCHITECTURES, random_model

from model.engines import Sampling
from probe.layers import FOLDS, LayerReader, final_norm, head, held_out, read_branches, readouts
from probe.onset import OnsetSets
from probe.patching import Patcher
from probe.scoring import Row, Scorer
from probe.slot import Slot
from run.program import InputError

# marked and ended share nothing; the second slot has a longer separator, and a token before the end of turn
SLOTS = [Slot(3, (7, 8, 9, 1), (1,), 0, 1), Slot(6, (11, 12, 13, 1), (14, 1), 0, 2)]
ROWS = [
    Row((2, 3, 4, 5), (20, 21, 22), SLOTS[0]),
    Row((2, 3, 6), (23, 24, 25, 26, 27, 28), SLOTS[1]),
    Row((2, 3, 4, 5, 6, 7, 8, 9, 10), (20, 21, 22), SLOTS[0]),
]
OTHERS = {  # norms and heads that the families do not have
    "gpt_neox": {},
    "cohere": {"logit_scale": 0.3},
    "mixtral": {"num_local_experts": 2},
    "stablelm": {},
}


@pytest.fixture(scope="module", params=[*ARCHITECTURES, *OTHERS])
def model(request):
    architecture, sizes = ARCHITECTURES.get(request.param) or (request.param, OTHERS[request.param])
    return random_model(architecture, **sizes)


def parts_of(model, rows, budget=4096):
    """The probe's own parts of the slot."""
    sets = OnsetSets("[", {}, frozenset())
    scores = Scorer(model, sets, [1], Sampling(1.0, 1.0, 8), 1.0, budget).score(rows)
    return [row.slot.parts(score.marked, score.ended) for row, score in zip(rows, scores, strict=True)]


def test_the_last_layer_is_the_probes_trigger_and_onset_part_whatever_the_architecture(model):
    read = LayerReader(model, 4096).read(ROWS)
    assert read.trigger.shape == (3, model.config.num_hidden_layers + 1)
    for at, parts in enumerate(parts_of(model, ROWS)):
        assert float(read.trigger[at, -1]) == pytest.approx(parts["trigger"], abs=1e-5)
        assert float(read.onset_part[at, -1]) == pytest.approx(parts["onset_part"], abs=1e-5)


def test_a_lower_layer_is_what_the_model_says_without_the_layers_above_it(model):
    read = LayerReader(model, 4096).read(ROWS)
    layers = model.get_decoder().layers
    hooks = [layer.register_forward_hook(lambda m, taken, given: kept(taken, given)) for layer in layers[1:]]
    try:
        for at, parts in enumerate(parts_of(model, ROWS)):
            assert float(read.trigger[at, 1]) == pytest.approx(parts["trigger"], abs=1e-4)
            assert float(read.onset_part[at, 1]) == pytest.approx(parts["onset_part"], abs=1e-4)
    finally:
        for hook in hooks:
            hook.remove()


def kept(taken, given):
    """A layer's output that is its input."""
    return (taken[0], *given[1:]) if isinstance(given, tuple) else taken[0]


def test_layers_do_not_depend_on_padding_batch_or_order(model):
    together = LayerReader(model, 4096).read(ROWS)
    alone = LayerReader(model, 1).read(ROWS[::-1])
    for name in ("trigger", "onset_part", "states"):
        torch.testing.assert_close(getattr(alone, name).flip(0), getattr(together, name), atol=1e-4, rtol=1e-5)


def test_a_patch_from_itself_changes_nothing_and_after_the_last_layer_it_is_the_other_model(model):
    patcher = Patcher(model, ROWS, 20)  # two batches
    own = patcher.donor()
    assert patcher.patched(own) == [own.parts] * len(patcher.layers)
    for parts, probed in zip(own.parts, parts_of(model, ROWS), strict=True):
        assert parts == pytest.approx({"slot": sum(probed.values())} | probed, abs=1e-4)
    last = next(weight for weight in patcher.layers[-1].parameters() if weight.dim() == 2)
    kept_weight = last.detach().clone()
    try:
        last.data += torch.randn(last.shape, generator=torch.Generator().manual_seed(1)) * 0.3
        other = patcher.donor()
    finally:
        last.data.copy_(kept_weight)
    assert all(one != changed for one, changed in zip(own.parts, other.parts, strict=True))
    *lower, at_last = patcher.patched(other)
    assert at_last == other.parts, "planted in the last layer it is found there"
    assert lower == [own.parts] * len(lower), "and nowhere else"


def test_a_model_that_cannot_be_patched_is_refused_by_name():
    model = random_model("llama")
    patcher = Patcher(model, ROWS)
    donor = patcher.donor()
    donor.parts[0]["slot"] += 1  # as if more than the state went from layer to layer
    with pytest.raises(InputError, match="llama: with the other model's state after the last layer the slot differs"):
        patcher.patched(donor)
    model.config.num_hidden_layers = 3
    with pytest.raises(InputError, match="llama: its decoder has no list of 3 layers to patch"):
        Patcher(model, ROWS)


def test_the_head_leaves_the_model_as_it_was(model):
    ids = torch.tensor([[2, 3, 4]])
    before = model(input_ids=ids).logits
    states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(head(model, states[0]), before[0], atol=1e-5, rtol=1e-5)
    assert model(input_ids=ids).logits.equal(before)


def test_a_decoder_without_a_final_norm_is_refused_by_name():
    model = random_model("llama")

    def after_its_parts(decoder, taken, given):
        given.hidden_states = (*given.hidden_states[:-1], 2 * given.hidden_states[-1])

    model.get_decoder().register_forward_hook(after_its_parts)
    with pytest.raises(InputError, match="llama: no final norm .*fix: probe: {layers: 0}"):
        final_norm(model)


def test_a_head_that_reads_more_than_the_last_state_is_refused():
    model = random_model("llama")
    reader = LayerReader(model, 4096)
    bias = torch.zeros(600)
    bias[7] = 5.0
    model.lm_head.register_forward_hook(lambda m, taken, given: given + bias * (given.shape[1] != 1))
    model.lm_head.register_forward_hook(lambda m, taken, given: given - 3 * bias * (given.shape[1] > 20))
    with pytest.raises(InputError, match="llama: .*plain forward pass"):
        reader.read(ROWS)


def test_what_is_read_ends_at_the_markers_first_token():
    assert read_branches(ROWS[1]) == ((11, 12, 13), (14, 1))


def test_the_read_out_is_ridge_regression():
    from statsmodels.api import OLS

    draw = torch.Generator().manual_seed(0)
    states = torch.randn(30, 4, dtype=torch.float64, generator=draw)
    target = torch.randn(30, 1, dtype=torch.float64, generator=draw)
    folds = torch.arange(30) % 2
    said = held_out(states, target, folds, penalty=0.5)
    known, new = states[folds == 1], states[folds == 0]
    centre, scale = known.mean(0), known.std(0)
    known, new = ((each - centre) / scale for each in (known, new))
    level = target[folds == 1].mean()
    # statsmodels halves the mean squared error, ours sums it over the features
    fitted = OLS((target[folds == 1] - level).numpy()[:, 0], known.numpy()).fit_regularized(
        L1_wt=0.0, alpha=0.5 * 4 / len(known)
    )
    assert said[folds == 0, 0].tolist() == pytest.approx((new.numpy() @ fitted.params + float(level)).tolist())


@pytest.fixture(scope="module")
def crossed():
    """Two bodies per question under three personas: layer 0 knows the body alone, layer 1 the villain, too."""
    draw = torch.Generator().manual_seed(0)
    personas, questions, states = [], [], []
    for question in range(2 * FOLDS):
        for _ in range(2):
            body = torch.randn(8, generator=draw)
            for persona in ("villain", "comedian", "librarian"):
                personas.append(persona)
                questions.append(f"q{question}")
                told = torch.zeros(8)
                told[0] = 20.0 * (persona == "villain")
                states.append(torch.stack([body, body + told]))
    return torch.stack(states), personas, questions


def test_a_read_out_tells_a_persona_where_the_states_do_and_not_where_they_do_not(crossed):
    told = readouts(*crossed, "cpu")
    asked = [f"q{question}" for question in range(2 * FOLDS)]
    assert all(layers["readout"][0] == 0.5 and abs(layers["margin"][0]) < 1e-9 for layers in told.values())
    assert all(told["villain", question]["readout"][1] == 1.0 for question in asked)
    assert all(0.5 < told["villain", question]["margin"][1] < 1.1 for question in asked)
    assert all(told["librarian", question]["readout"][1] < 0.9 for question in asked)


def test_no_question_is_in_what_its_own_read_out_was_fitted_on(crossed):
    """States that name the question as well as the persona, differently in each, are told by none of the others."""
    _, personas, questions = crossed
    names = list(dict.fromkeys(zip(personas, questions, strict=True)))
    marks = torch.eye(len(names))[[names.index(key) for key in zip(personas, questions, strict=True)]]
    told = readouts(marks[:, None], personas, questions, "cpu")
    assert all(layers["readout"] == [0.5] for layers in told.values())
