"""A prompt is chosen by its text, by its exact name, or by what other services call a role."""

import pytest

from embedders.base import Embedder, Facts, Prompt
from errors import BadRequest


def embedder(default: str | None = None, **prompts: str) -> Embedder:
    """Make an embedder of these prompts; sentence-transformers fills query and document in."""
    made = Embedder()
    known = {"query": "", "document": "", **prompts}
    made.facts = Facts(8, 8, "cpu", "float32", "f", prompts=known, default_prompt_name=default)
    return made


QUERIES = ["query", "search_query", "retrieval.query", "RETRIEVAL_QUERY"]
DOCUMENTS = ["document", "passage", "corpus", "search_document", "retrieval.passage",
             "RETRIEVAL_DOCUMENT"]  # fmt: skip
ROLES = [(role, "query") for role in QUERIES] + [(role, "document") for role in DOCUMENTS]


@pytest.mark.parametrize(("role", "side"), ROLES)
@pytest.mark.parametrize(
    "prompts",
    [
        {"query": "q: ", "document": "d: "},
        {"query": "q: ", "passage": "d: "},
        {"query": "q: ", "corpus": "d: "},
        {"search_query": "q: ", "search_document": "d: "},
        {"retrieval.query": "q: ", "retrieval.passage": "d: "},
    ],
)
def test_every_word_for_a_side_finds_the_models_own_prompt(
    prompts: dict[str, str], role: str, side: str
) -> None:
    chosen = embedder(**prompts).prompt(None, None, role)
    assert (chosen.text, chosen.task) == ({"query": "q: ", "document": "d: "}[side], side)


def test_a_roles_own_word_wins_over_its_synonyms() -> None:
    model = embedder(document="d: ", passage="p: ", corpus="")
    assert model.prompt(None, None, "passage").text == "p: "
    assert model.prompt(None, None, "document").text == "d: "
    assert model.prompt(None, None, "corpus").text == "d: "  # its own has no text


def test_an_exact_name_is_that_prompt_and_no_other() -> None:
    model = embedder(query="q: ", passage="p: ")
    assert model.prompt("document", None) == Prompt("", "document", "document")
    assert model.prompt("passage", None) == Prompt("p: ", "passage", "document")


@pytest.mark.parametrize("role", ["classification", "clustering", "text-matching", "image"])
def test_a_use_without_a_prompt_reads_the_text_as_it_is(role: str) -> None:
    assert embedder(query="q: ").prompt(None, None, role) == Prompt()
    for word in (role, role.title()):
        own = embedder(**{word: "use: "})
        assert own.prompt(None, None, role) == Prompt("use: ", word, None)
    assert embedder("mine", mine="m: ").prompt(None, None, role) == Prompt()


def test_a_name_in_another_case_is_found_after_an_exact_one() -> None:
    model = embedder(**{"Retrieval-query": "R: ", "Clustering": "C: ", "clustering": "c: "})
    assert model.prompt(None, None, "search_query") == Prompt("R: ", "Retrieval-query", "query")
    assert model.prompt(None, None, "clustering").text == "c: "
    assert model.prompt(None, None, "Clustering").text == "C: "


def test_a_side_without_a_prompt_takes_no_default_as_in_encode_query() -> None:
    model = embedder("mine", mine="m: ")
    assert model.prompt(None, None).text == "m: "
    assert model.prompt(None, None, "query") == Prompt("", "query", "query")


def test_a_text_is_the_prompt_whatever_else_is_said() -> None:
    model = embedder(query="q: ")
    assert model.prompt(None, "t: ", "search_query") == Prompt("t: ", None, "query")
    with pytest.raises(BadRequest, match="contradict each other"):
        model.prompt(None, "t: ", "clustering")  # it would choose nothing but a prompt


@pytest.mark.parametrize(
    ("name", "role", "param"), [("querry", None, "prompt_name"), (None, "querry", "input_type")]
)
def test_an_unknown_word_is_refused_with_those_known(
    name: str | None, role: str | None, param: str
) -> None:
    with pytest.raises(BadRequest, match="this model knows: document, passage, query") as refused:
        embedder(passage="p: ").prompt(name, None, role)
    assert refused.value.param == param
