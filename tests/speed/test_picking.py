"""What goes into a pass when lengths do not matter: everybody's turn, within the budget."""

from embedders.base import Item
from embedders.fake import FakeEmbedder
from serving.batcher import Batcher
from serving.scheduler import Job, take_mixed_lengths


def job(lengths: list[int]) -> Job:
    items = [Item("w", n) for n in lengths]
    order = sorted(range(len(items)), key=lambda i: items[i].tokens)
    return Job(items, None, None, order, len(items), sum(lengths))


def test_it_fills_the_budget_from_everyone_in_turn() -> None:
    first, second = job([30] * 17), job([5, 200, 9] * 6)
    batch = take_mixed_lengths([first, second], 300, 512)
    assert sum(each.items[i].tokens for each, i in batch) in range(271, 301)  # one more is 30
    assert {each for each, _ in batch} == {first, second}
    assert all(second.items[i].tokens == 200 for each, i in batch if each is second)


def test_it_keeps_the_count_of_items() -> None:
    bulk = job([1] * 100)
    batch = take_mixed_lengths([bulk], 1024, 7)
    assert len(batch) == 7
    assert len(bulk.order) == 93


def test_an_input_over_the_budget_is_taken_all_the_same() -> None:
    assert len(take_mixed_lengths([job([999])], 16, 512)) == 1


def test_a_batcher_over_an_embedder_that_does_not_pad_loses_nothing() -> None:
    class Unpadded(FakeEmbedder):
        pads = False

    embedder = Unpadded(max_tokens=512)
    items = [Item(f"text {n}", 1 + n * 37 % 200) for n in range(150)]
    encoded = Batcher(embedder, max_tokens=256).encode(items)
    for row, item in zip(encoded.vectors, items, strict=True):
        assert (row == embedder.vector(str(item.payload))).all()
