"""Which model a request gets: the one that it names, if that gives what the request asks for."""

from collections.abc import Sequence
from typing import Literal

from embedders.base import DENSE, Facts, Kind, Output
from errors import ModelLoading, WrongKind
from observability.names import public_name
from serving.model import Loaded, Model
from serving.registry import Registry

# What a request wants of a model: its outputs, or `classes`, the scores of labels, which a
# classifier gives, and a reranker of its one label.
Wish = Output | Literal["classes"]
SCORE: tuple[Output, ...] = ("score",)
CLASSES: tuple[Wish, ...] = ("classes",)
Taken = tuple[Model, Loaded]  # a request's model, and what encodes for it
NAMES: dict[Wish, str] = {
    "dense": "dense vectors",
    "sparse": "sparse vectors",
    "multi_vector": "vectors of tokens",
    "score": "scores of documents",
    "classes": "scores of labels",
    "tokens": "states of tokens before its pooling",
    "chunks": "vectors of chunks by late chunking",
}
KINDS: dict[Kind, str] = {
    "sentence_transformer": "an embedding model",
    "reranker": "a reranker",
    "classifier": "a classifier",
    "sparse": "a sparse model",
    "multi_vector": "a multi-vector model",
}


def select(
    registry: Registry, name: str | None, outputs: Sequence[Wish], deadline: float | None = None
) -> Taken:
    """Return the model of this name; without one the default, or the first that gives the outputs.

    For classes it is a classifier if there is one. Without outputs any model will do.

    With it what encodes, loaded first if need be: one reference for a whole request, so that an
    exchange never mixes models and what is in use is never freed. A request takes it once.
    Raises UnknownModel, ModelLoading, ModelUnavailable, NoRoom, and WrongKind for a model that does
    not give them: with what it is, the route for it, and the models that do.
    """
    model = registry.get(name)
    facts = model.facts
    if facts is None or gives(facts, outputs):
        loaded = registry.take(model, deadline)
        facts = loaded.facts
        if gives(facts, outputs):
            return model, loaded
        del loaded  # whoever waits for another model must not hold this one
    others = [other for other in registry.models.values() if other is not model]
    ready = [each for each in others if each.state in ("ready", "unloaded")]
    able = [each for each in ready if _will_give(each, outputs)]
    if outputs == CLASSES:
        able.sort(key=lambda each: each.facts is None or each.facts.kind != "classifier")
    if name is None and able:
        return able[0], registry.take(able[0], deadline)
    if name is None and any(each.state == "loading" for each in others):
        raise ModelLoading("no model that gives this is ready; others are still loading")
    missing = " and no ".join(NAMES[each] for each in outputs if not gives(facts, (each,)))
    names = ", ".join(public_name(each.spec.id) for each in able) or "none that is ready"
    # Other outputs than these two are named in the request itself.
    param = "outputs" if {"sparse", "multi_vector"} & {*outputs} else "model"
    raise WrongKind(
        f"model {public_name(model.spec.id)!r} is {KINDS[facts.kind]} and gives no {missing}: "
        f"{_route(facts)}; models that do this: {names}",
        param=param,
    )


def check_chunks(model: Model, facts: Facts) -> None:
    """Raise WrongKind for a model whose chunks cannot be given vectors by late chunking."""
    if facts.pools_chunks:
        return
    why = "it is not run by this service's own network, or is no embedding model"
    if facts.pooling not in (None, "mean"):
        why = f"it is of models that pool the mean of their tokens, and this pools {facts.pooling}"
    elif facts.pooling and facts.backend != "library" and facts.token_dimension:
        why = "modules stand between its network and its pooling, or unknown ones after it"
    raise WrongKind(
        f"model {public_name(model.spec.id)!r} gives no {NAMES['chunks']}: {why}; send the chunks "
        "without it",
        param="model",
    )


def _route(facts: Facts) -> str:
    """Return which request a model is for."""
    if facts.kind == "classifier":
        return "it is for POST /predict"
    if facts.kind == "reranker":
        return "it is for POST /rerank"
    given = ", ".join(f'"{output}"' for output in facts.outputs)
    return f'it is for POST /embed with "outputs": [{given}]'


def _will_give(model: Model, outputs: Sequence[Wish]) -> bool:
    """Whether a model gives these outputs; one that was never loaded, as its type says."""
    if model.facts is not None:
        return gives(model.facts, outputs)
    of_type: dict[str, tuple[Wish, ...]] = {
        "sentence_transformer": DENSE, "reranker": (*SCORE, *CLASSES), "sparse": ("sparse",),
        "multi_vector": ("multi_vector",),
    }  # fmt: skip
    return set(outputs) <= set(of_type.get(model.spec.type, ()))


def gives(facts: Facts, outputs: Sequence[Wish]) -> bool:
    """Whether a model gives these outputs. A classifier's scores are no scores of documents."""
    if outputs == facts.outputs:
        return facts.kind != "classifier"
    return all(_gives(facts, output) for output in outputs)


def _gives(facts: Facts, output: Wish) -> bool:
    if output == "classes":
        return "score" in facts.outputs
    if output == "tokens":
        return facts.token_dimension > 0
    if output == "chunks":
        return facts.pools_chunks
    return output in facts.outputs and facts.kind != "classifier"
