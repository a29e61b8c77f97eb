"""Which model a request gets: the one that it names, if that gives what the request asks for."""

from collections.abc import Sequence

from embedders.base import Facts, Kind, Output
from errors import ModelLoading, WrongKind
from serving.model import Loaded, Model, public_name
from serving.registry import Registry

SCORE: tuple[Output, ...] = ("score",)
NAMES: dict[Output, str] = {
    "dense": "dense vectors",
    "sparse": "sparse vectors",
    "multi_vector": "vectors of tokens",
    "score": "scores of documents",
}
KINDS: dict[Kind, str] = {
    "sentence_transformer": "an embedding model",
    "reranker": "a reranker",
    "classifier": "a classifier",
    "sparse": "a sparse model",
    "multi_vector": "a multi-vector model",
}
ROUTES: dict[Kind, str] = {
    "sentence_transformer": "POST /embed",
    "reranker": "POST /rerank",
    "classifier": "no route of this version",
    "sparse": 'POST /embed with "outputs": ["sparse"]',
    "multi_vector": 'POST /embed with "outputs": ["multi_vector"]',
}


def select(registry: Registry, name: str | None, outputs: Sequence[Output]) -> tuple[Model, Loaded]:
    """Return the model of this name; without one the default, or the first that gives the outputs.

    With it what encodes: one reference for a whole request, so that an exchange never mixes models.
    Raises UnknownModel, ModelLoading, ModelUnavailable, and WrongKind for a model that does not
    give them: with what it is, the route for it, and the models that do.
    """
    model = registry.get(name)
    loaded = model.loaded
    facts = loaded.facts
    if gives(facts, outputs):
        return model, loaded
    others = [other for other in registry.models.values() if other is not model]
    ready = [each for each in others if each.state == "ready"]
    able = [each for each in ready if each.facts is not None and gives(each.facts, outputs)]
    if name is None and able:
        return able[0], able[0].loaded
    if name is None and any(each.state == "loading" for each in others):
        raise ModelLoading("no model that gives this is ready; others are still loading")
    missing = " and no ".join(NAMES[each] for each in outputs if not gives(facts, (each,)))
    names = ", ".join(public_name(each.spec.id) for each in able) or "none that is ready"
    raise WrongKind(
        f"model {public_name(model.spec.id)!r} is {KINDS[facts.kind]} and gives no {missing}: it "
        f"is for {ROUTES[facts.kind]}; models that do this: {names}",
        param="model",
    )


def gives(facts: Facts, outputs: Sequence[Output]) -> bool:
    """Whether a model gives these outputs. A classifier's scores are no scores of documents."""
    same = outputs == facts.outputs or set(outputs) <= set(facts.outputs)
    return same and facts.kind != "classifier"
