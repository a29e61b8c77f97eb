"""Passes without padding: layout, attention, pooling, and what may be recorded as a graph."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, BertConfig, BertModel, RobertaConfig, RobertaModel

from embedders import flat
from embedders.base import Item
from embedders.cuda_graphs import LONGEST, Size
from embedders.flat import KEPT, NAME, PLACES, TYPES, FlatNetwork, Layout, NotFlat, attend
from embedders.flat_passes import FEWEST_TOKENS, MOST_TOKENS, FlatPasses, pooled
from tests.gpu.simulated import accelerator, full, odd
from tests.zoo.layouts import SHAPE, wild
from tests.zoo.layouts_bert import bert
from tests.zoo.layouts_decoders import qwen3_last_token
from tests.zoo.layouts_encoders import modernbert_mean

LENGTHS = (5, 1, 70, 5, 33, 2)
SMALL = {**SHAPE, "vocab_size": 100, "intermediate_size": 128, "max_position_embeddings": 200}


def ids_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 100, n).tolist() for n in lengths]


def items_of(lengths: Sequence[int], seed: int = 0, skip: int = 0) -> list[Item]:
    return [Item(ids, len(ids), skip=min(skip, len(ids))) for ids in ids_of(lengths, seed)]


# -- the states ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> BertModel:
    return wild(BertModel(BertConfig(**SMALL)))


def alone(network: Any, ids: list[int], **given: torch.Tensor) -> torch.Tensor:
    """Return the library's states of one text, (t, d)."""
    with torch.inference_mode():
        return network(input_ids=torch.tensor([ids]), **given).last_hidden_state[0]


def test_the_states_of_each_text_come_in_the_order_given(network: BertModel) -> None:
    given = ids_of(LENGTHS)
    with torch.inference_mode():
        states = FlatNetwork(network).states(given)
    for ids, found in zip(given, states.of_each(), strict=True):
        torch.testing.assert_close(found, alone(network, ids), rtol=1e-4, atol=1e-4)


def test_the_second_text_of_a_pair_has_its_own_type(network: BertModel) -> None:
    given = ids_of((9, 30, 4))
    with torch.inference_mode():
        states = FlatNetwork(network, [TYPES]).states(given, seconds=[4, 0, 2])
    for ids, second, found in zip(given, (4, 0, 2), states.of_each(), strict=True):
        types = torch.tensor([[int(bool(second) and at >= second) for at in range(len(ids))]])
        right = alone(network, ids, token_type_ids=types)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_padding_tokens_in_a_text_take_no_position_where_the_library_skips_them() -> None:
    network = wild(RobertaModel(RobertaConfig(**SMALL, pad_token_id=1)))
    given = [[0, 7, 1, 1, 8, 9], [5, 6, 7], [1, 1], [3, 1]]
    with torch.inference_mode():
        states = FlatNetwork(network).states(given)
    for ids, found in zip(given, states.of_each(), strict=True):
        mask = torch.ones(1, len(ids), dtype=torch.long)
        right = alone(network, ids, attention_mask=mask)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_the_network_itself_is_left_as_it_is_and_no_weight_is_copied(network: BertModel) -> None:
    made = FlatNetwork(network)
    assert network.config._attn_implementation != NAME
    ours = dict(made.model.named_parameters())
    assert all(each is ours[name] for name, each in network.named_parameters())


def test_what_attention_does_not_know_is_refused(network: BertModel) -> None:
    states = torch.zeros(1, 4, 3, 16)
    with pytest.raises(NotFlat, match="a mask"):
        attend(None, states, states, states)  # outside a pass
    made, layout = FlatNetwork(network), Layout(torch.tensor([0, 3]), 3)
    flat._under_way.layout = layout
    try:
        with pytest.raises(NotFlat, match="a mask"):
            attend(None, states, states, states, torch.ones(3, 3))
        with pytest.raises(NotFlat, match="softcap"):
            attend(None, states, states, states, softcap=30.0)
    finally:
        flat._under_way.layout = None
    made.model.set_attn_implementation("sdpa")  # as a network whose attention is its own
    with pytest.raises(NotFlat, match="its own"), torch.inference_mode():
        made.states(ids_of((3, 4)))


# -- pooling ---------------------------------------------------------------------------------------

MODES = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("modes", [*((mode,) for mode in MODES), MODES], ids="+".join)
def test_pooling_is_the_librarys(modes: tuple[str, ...], skip: int) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    library = Pooling(16, pooling_mode=modes, include_prompt=not skip)
    lengths = [70, 33, 5, 5, 4]  # each longer than what is skipped
    states = torch.randn(sum(lengths), 16, generator=torch.Generator().manual_seed(1))
    bounds = torch.tensor(np.cumsum([0, *lengths]))
    places = torch.cat([torch.arange(n) for n in lengths])
    kept = (places >= skip).long() if skip else None
    found = pooled(modes, states, bounds, places, kept)
    for at, part in enumerate(states.split(lengths)):
        features = {"token_embeddings": part[None], "attention_mask": torch.ones(1, len(part))}
        features["attention_mask"] = features["attention_mask"].long()
        if skip:
            features["prompt_length"] = skip
        right = library(features)["sentence_embedding"][0]
        torch.testing.assert_close(found[at], right, rtol=1e-5, atol=1e-5)


def test_a_text_is_pooled_to_the_same_bits_in_any_company() -> None:
    states = torch.randn(400, 16, generator=torch.Generator().manual_seed(2))
    text = states[100:171]
    places = torch.arange(71)
    one = pooled(MODES, text, torch.tensor([0, 71]), places)
    for before in (0, 1, 29):
        rest = torch.cat([states[:before], text, states[171:]])
        bounds = torch.tensor([0, before, before + 71, len(rest)])
        numbered = torch.cat([torch.arange(before), places, torch.arange(len(rest) - before - 71)])
        assert torch.equal(pooled(MODES, rest, bounds, numbered)[1], one[0])


def test_a_text_whose_tokens_are_all_left_out_has_a_vector_of_zeros_as_in_the_library() -> None:
    states, bounds = torch.randn(5, 4), torch.tensor([0, 2, 5])
    found = pooled(("mean",), states, bounds, kept=torch.tensor([0, 0, 1, 1, 1]))
    assert not found[0].any() and found[1].any()


def test_a_pooling_that_is_not_known_is_refused() -> None:
    with pytest.raises(NotFlat, match="'middle'"):
        pooled(("middle",), torch.ones(2, 4), torch.tensor([0, 2]))


# -- recorded passes -------------------------------------------------------------------------------

SIZES = (Size(256, 64), Size(1024, 128), Size(2048, 512))


def without_prompt(folder: Path) -> None:
    """Write a BERT whose pooling leaves the prompt out."""
    bert(folder, "mean", include_prompt=False, limit=600, facts={"max_position_embeddings": 600})


@pytest.fixture(
    scope="module",
    params=[without_prompt, modernbert_mean, qwen3_last_token],
    ids=lambda build: build.__name__,
)
def passes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], FlatPasses]:
    """Make the passes of a model, on the CPU."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("flat") / "model"
    request.param(folder)
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    heads = [m for m in list(model)[1:] if type(m).__name__ != "Normalize"]
    width = int(model.get_embedding_dimension())
    limit = min(int(model.max_seq_length), 600)
    return lambda: FlatPasses(model[0].auto_model, heads, width, limit)


def recomputed(work: Callable[[], Any]) -> Callable[[], Any]:
    """Record nothing: what a graph would replay is computed again."""
    work()
    return work


def test_a_pass_in_a_table_of_fixed_size_gives_what_it_gives_by_itself(
    passes: Callable[[], FlatPasses],
) -> None:
    made = passes()
    made.record(recomputed, SIZES)
    assert made.sizes == list(SIZES)
    for lengths in (LENGTHS, (1,) * 64, (256,), (200, 40, 3) * 4, (7,) * 500):
        items = items_of(lengths, seed=len(lengths), skip=3)
        found, right = made.begin(items)(), made.begin(items, eager=True)()
        np.testing.assert_allclose(found, right, rtol=2e-4, atol=2e-4)


def test_places_that_hold_no_text_may_hold_anything(
    passes: Callable[[], FlatPasses], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's kernels leave there what was in memory before."""
    made = passes()
    right = made.begin(items_of(LENGTHS), eager=True)()
    made.record(recomputed, SIZES)

    def spoiled(*args: Any, **given: Any) -> tuple[Any, None]:
        seen, _ = attend(*args, **given)
        seen[:, sum(LENGTHS) :] = float("nan")
        return seen, None

    AttentionInterface.register(NAME, spoiled)
    try:
        found = made.begin(items_of(LENGTHS))()
    finally:
        AttentionInterface.register(NAME, attend)
    np.testing.assert_allclose(found, right, rtol=2e-4, atol=2e-4)


class NoWaiting(TorchDispatchMode):
    """Fails at operations for which a GPU's results are awaited."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func.name()
        for waits in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique",
                      "aten::equal"):  # fmt: skip
            assert waits not in name, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def test_nothing_in_a_pass_waits_for_the_device(passes: Callable[[], FlatPasses]) -> None:
    made = passes()

    def watched(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with NoWaiting():
                return work()

        return run

    made.record(watched, SIZES[:1])
    assert made.sizes == [SIZES[0]]
    made.begin(items_of(LENGTHS))()


def test_the_smallest_table_that_holds_a_pass_is_taken_and_none_for_long_texts(
    passes: Callable[[], FlatPasses],
) -> None:
    made = passes()
    made.record(recomputed, SIZES)
    assert made._graphs is not None
    cases = {(256, 64, 9): SIZES[0], (257, 1, 9): SIZES[1], (80, 65, 2): SIZES[1],
             (2049, 9, 9): None, (2048, 513, 9): None, (900, 1, LONGEST + 1): None}  # fmt: skip
    assert {given: made._graphs.fitting(*given) for given in cases} == cases


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], FlatPasses]]:
    """Make the passes of a BERT with mean pooling."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("flat") / "bert"
    bert(folder, "mean", limit=64)
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    yield lambda: FlatPasses(model[0].auto_model, list(model)[1:], 64, 64)


@pytest.mark.parametrize(
    ("failure", "left"),
    [
        (full, [SIZES[0]]),  # the larger ones alone do not fit
        (odd, []),
        (lambda: accelerator("CUDA error: operation not permitted when stream is capturing", 900),
         []),
    ],
)  # fmt: skip
def test_where_recording_fails_passes_run_without(
    plain: Callable[[], FlatPasses], caplog: pytest.LogCaptureFixture,
    failure: Callable[[], Exception], left: list[Size],
) -> None:  # fmt: skip
    made, seen = plain(), 0

    def record(work: Callable[[], Any]) -> Callable[[], Any]:
        nonlocal seen
        seen += 1
        if seen < 3:
            raise failure()
        return recomputed(work)

    made.record(record, SIZES)
    assert made.sizes == left
    assert "no graph of 2048 tokens" in caplog.text
    right = made.begin(items_of(LENGTHS), eager=True)()
    np.testing.assert_allclose(made.begin(items_of(LENGTHS))(), right, rtol=2e-4, atol=2e-4)


def test_a_replay_that_differs_from_the_pass_itself_is_dropped(
    plain: Callable[[], FlatPasses], caplog: pytest.LogCaptureFixture
) -> None:
    made, recorded = plain(), []

    def record(work: Callable[[], Any]) -> Callable[[], Any]:
        recorded.append(work)
        frozen = work()  # the second recorded one never reads its table again
        return (lambda: frozen) if len(recorded) == 2 else work

    made.record(record, SIZES)
    assert made.sizes == [SIZES[0], SIZES[2]]
    assert "a graph of 1024 tokens has cosine" in caplog.text


def test_only_what_a_full_pass_may_hold_is_recorded(plain: Callable[[], FlatPasses]) -> None:
    made = plain()
    made.pass_tokens = 2000
    made.record(recomputed, SIZES)
    assert made.sizes == list(SIZES[:2])


# -- memory ----------------------------------------------------------------------------------------


def test_a_pass_takes_a_third_of_the_free_memory_within_limits(
    plain: Callable[[], FlatPasses],
) -> None:
    made, each = plain(), 2 * (8 * 64 + 3 * 128) + 8 * 64
    for free, right in ((1 << 40, MOST_TOKENS), (0, FEWEST_TOKENS), (each * 3 * 5000, 4096)):
        made.fit(free, torch.bfloat16)
        assert made.pass_tokens == right


def test_a_full_pass_is_tried_and_halved_until_it_fits(
    plain: Callable[[], FlatPasses], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tried = plain(), []
    right = FlatPasses.begin

    def begin(self: FlatPasses, items: list[Item], *, eager: bool = False) -> Any:
        tried.append(sum(item.tokens for item in items))
        if tried[-1] > 5000:
            raise full()
        return right(self, items, eager=eager)

    monkeypatch.setattr(FlatPasses, "begin", begin)
    made.warm()
    assert made.pass_tokens == 4096
    assert [round(count, -3) for count in tried] == [33_000, 16_000, 8000, 4000]
    monkeypatch.setattr(FlatPasses, "begin", lambda *_, **__: (_ for _ in ()).throw(full()))
    with pytest.raises(torch.OutOfMemoryError):
        made.warm()


# -- what cannot run flat --------------------------------------------------------------------------


def test_tables_have_the_rows_that_a_model_needs_and_no_others(network: BertModel) -> None:
    assert FlatNetwork(network).rows == ("ids", "positions", "bounds")
    table = FlatNetwork(network, [PLACES, KEPT]).table(ids_of((2, 3)), columns=8, skips=[1, 2])
    assert table.order == [1, 0]
    np.testing.assert_array_equal(
        table.numbers[1:].tolist(),
        [[0, 1, 2, 0, 1, 0, 0, 0], [0, 3, 5, 5, 5, 5, 5, 5], [0, 1, 2, 0, 1, 0, 0, 0],
         [0, 0, 1, 0, 1, 0, 0, 0]],
    )  # fmt: skip
