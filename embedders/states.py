"""The states of a pass's tokens, for models whose results are made of every token.

A pass is computed by packed layers, or by the network itself, flat or padded. In each way the
states that come out are those of the tokens alone, text after text.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from embedders.base import Item, OutOfMemory
from embedders.device import DeviceEmbedder, Result
from embedders.flat import TYPES, FlatNetwork
from embedders.graph import WIDEST, OnnxLayers
from embedders.layers import TorchLayers, cores, use_cores
from embedders.loading import LoadedModel
from embedders.packed import Make, Packed, Share, by_length, can_pack, run

# More tokens for each core gain nothing and make others wait (51 us a token at 512, 53 at 1024).
CORE_TOKENS = 512
PACKED = ("auto", "packed", "onnx")  # the configured backends that let layers be packed


@dataclass(frozen=True)
class Part:
    """Some texts of a pass, and the states of their tokens."""

    rows: Sequence[int]  # the texts' places in the pass
    lengths: Sequence[int]  # the tokens of each
    states: Any  # (sum of lengths, d), text after text

    def of_each(self, values: Any) -> Sequence[Any]:
        """Return each text's rows of `values`, which has a row for each token."""
        return values.split(list(self.lengths))  # type: ignore[no-any-return]


Use = Callable[[Part], None]


class TokenStates(Protocol):
    """Computes the states of token ids. Safe to call from several threads at once."""

    name: str  # the backend that `/models` shows
    pads: bool
    pass_tokens: int | None

    def __call__(
        self, inputs: Sequence[Sequence[int]], use: Use, *, one_length: bool = False,
        seconds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Give the states of all inputs to `use`, in parts, within `torch.inference_mode`.

        `use` may be called from several threads at once, each with other inputs. With `one_length`
        only texts of one length are padded together. `seconds` has where the second text of each
        pair begins, for networks that are told.
        """


class PackedStates:
    """The states by packed layers, on a CPU, divided between its cores."""

    pads = False

    def __init__(self, encoder: Any, dtype: Any, make: Make = TorchLayers) -> None:
        """Copy an encoder that `can_pack`, or take a copy.

        Raises ModelUnavailable or what `make` raises.
        """
        copied = isinstance(encoder, Packed)
        self._packed: Packed = encoder if copied else Packed(encoder, dtype, make)
        self.name = self._packed.layers.name
        self.pass_tokens: int | None = CORE_TOKENS * cores()

    def __call__(
        self, inputs: Sequence[Sequence[int]], use: Use, *, one_length: bool = False,
        seconds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """See `TokenStates`."""
        import torch

        def states_of(share: Share) -> None:
            second = [seconds[row] for row in share.rows] if len(seconds) else ()
            groups = self._packed([inputs[row] for row in share.rows], second, share.layers)
            places = [share.rows[row] for group in groups for row in group.rows]
            states = torch.cat([group.states.flatten(0, 1) for group in groups])
            firsts = self._packed.layers.firsts
            use(Part(places, [1 if firsts else len(inputs[p]) for p in places], states))

        run(self._packed.shares([len(given) for given in inputs]), states_of)


class FlatStates:
    """The states by the network itself, without padding."""

    name = "flat"
    pads = False
    pass_tokens: int | None = None

    def __init__(self, network: Any) -> None:
        """Take a network whose first result is the states, or a flat one of it. Raises NotFlat."""
        flat = isinstance(network, FlatNetwork)
        self._network: FlatNetwork = network if flat else FlatNetwork(network, (TYPES,))

    def __call__(
        self, inputs: Sequence[Sequence[int]], use: Use, *, one_length: bool = False,
        seconds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """See `TokenStates`."""
        import torch

        if self._network.device.type == "cpu":
            use_cores(cores())
        with torch.inference_mode():
            found = self._network.states(inputs, seconds)
            use(Part(found.order, found.lengths, found.rows[: sum(found.lengths)]))


class PaddedStates:
    """The states by the network itself, padded to the longest input of a pass."""

    name = "torch"
    pads = True
    pass_tokens: int | None = None

    def __init__(self, network: Any, pad_id: int) -> None:
        """Take a network whose first result is the states, (n, w, d)."""
        self._network, self._pad_id = network, pad_id

    def __call__(
        self, inputs: Sequence[Sequence[int]], use: Use, *, one_length: bool = False,
        seconds: Sequence[int] = (), seen: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """See `TokenStates`. Only the first `seen` tokens of each input are attended to."""
        import torch

        lengths = [len(given) for given in inputs]
        groups = by_length(lengths).values() if one_length else [range(len(inputs))]
        device = self._network.device
        if device.type == "cpu":
            use_cores(cores())
        for rows in groups:
            widths = [lengths[row] for row in rows]
            ids = np.full((len(rows), max(widths)), self._pad_id, np.int64)
            mask, types, kept = np.zeros_like(ids), np.zeros_like(ids), np.zeros(ids.shape, bool)
            for at, (row, width) in enumerate(zip(rows, widths, strict=True)):
                ids[at, :width], kept[at, :width] = inputs[row], True
                mask[at, : seen[row] if len(seen) else width] = 1
                if len(seconds) and seconds[row]:
                    types[at, seconds[row] : width] = 1
            given = {"input_ids": ids, "attention_mask": mask}
            if types.any():
                given["token_type_ids"] = types
            with torch.inference_mode():
                tokens = torch.from_numpy(np.flatnonzero(kept)).to(device)
                states = self._network(
                    **{name: torch.from_numpy(array).to(device) for name, array in given.items()}
                )[0]
                use(Part(rows, widths, states.flatten(0, 1)[tokens]))


class StatesEmbedder(DeviceEmbedder):
    """An embedder with a copy in float32, loaded when a pass first needs it."""

    _copy: DeviceEmbedder | None = None
    _copy_tried = False

    def _in_float32(self) -> DeviceEmbedder:
        """Return the model loaded again from its files in float32, run by its own network."""
        raise NotImplementedError

    def _forward_exactly(self, items: Sequence[Item]) -> Result:
        """Return the same by the copy. Raises OutOfMemory if it could not be loaded, each time."""
        if self.facts.dtype == "float32":
            return self._forward(items)
        if self._copy is None:
            if self._copy_tried:  # not tried for each pass again
                raise OutOfMemory("the model's copy in float32 could not be loaded")
            self._copy_tried = True
            self._copy = self._in_float32()
            self._copy.one_length = True  # in half precision a leak of padding may not show
        return self._copy.encode(items)


def gives(network: Any, what: str = "last_hidden_state") -> bool:
    """Return whether a module is a transformer that gives this for each of a text's token ids."""
    text = {"method": "forward", "method_output_name": what}
    return (
        hasattr(network, "auto_model")
        and hasattr(network.tokenizer, "backend_tokenizer")
        and network.modality_config.get("text") == text
        and "message" not in network.modality_config
        and network.module_output_name == "token_embeddings"
    )


def ways(
    loaded: LoadedModel, network: Any, encoder: Any, pad_id: int, limit: int
) -> list[tuple[str, Callable[[], TokenStates]]]:
    """Return the ways to compute a network's states, by name, the fastest first.

    Packed layers compute the states of `encoder`, the other ways the first result of `network`,
    which is `encoder` or has it inside. Inputs have at most `limit` tokens.
    """
    import torch

    wanted, dtype = loaded.backend, loaded.dtype
    found: list[tuple[str, Callable[[], TokenStates]]] = []
    if loaded.device.type == "cpu" and wanted in PACKED and can_pack(encoder):
        # In float32 ONNX Runtime is faster than torch's oneDNN; it cannot compute in bfloat16.
        makes: list[tuple[str, Make]] = [(TorchLayers.name, TorchLayers)]
        if wanted != "packed" and dtype == torch.float32 and limit <= WIDEST:
            makes.insert(0, (OnnxLayers.name, OnnxLayers))
        found += [
            (name, functools.partial(PackedStates, encoder, dtype, make)) for name, make in makes
        ]
    if wanted in ("auto", "flat"):
        found.append((FlatStates.name, functools.partial(FlatStates, network)))
    return [*found, (PaddedStates.name, functools.partial(PaddedStates, network, pad_id))]
