"""Finds networks whose rotary frequencies depend on the longest text of a pass.

transformers computes those of `dynamic` and `longrope` from the most positions that a pass has, so
a text beside a longer one has another vector. Those of `dynamic` also stay until a short text.
"""

from typing import Any


def follows_longest(model: Any) -> bool:
    """Return whether a text's result depends on the longest text of its pass."""
    return any("dynamic" in kind or kind == "longrope" for kind in _kinds(model))


def forget_lengths(model: Any) -> None:
    """Make each pass compute its frequencies as a network does that was just loaded."""
    for module in model.modules():
        if any("dynamic" in kind for kind in _kinds_of(module).values()):
            module.register_forward_pre_hook(_as_loaded)


def _kinds(model: Any) -> list[str]:
    return [kind for module in model.modules() for kind in _kinds_of(module).values()]


def _kinds_of(module: Any) -> dict[str, str]:
    """Return how a module scales its frequencies, by the prefix of its buffers' names."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, dict):  # one for each type of layer
        return {f"{layer}_": str(kind) for layer, kind in kinds.items()}
    return {} if kinds is None else {"": str(kinds)}


def _as_loaded(module: Any, _: Any) -> None:
    for prefix, kind in _kinds_of(module).items():
        if "dynamic" in kind:
            device = getattr(module, f"{prefix}inv_freq").device
            first = getattr(module, f"{prefix}original_inv_freq").to(device)
            setattr(module, f"{prefix}inv_freq", first)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
