"""What a folder says of its scores: their names, and what is made of the raw ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Facts
from embedders.reranker import activation_of
from errors import ModelUnavailable
from tests.embedders import rerankers
from tests.embedders.rerankers import IDENTITY, SIGMOID, encoder
from tests.zoo import vocabularies

SOFTMAX = "torch.nn.modules.activation.Softmax"


@pytest.fixture
def facts_of(tmp_path: Path) -> Callable[[Path], Facts]:
    def loaded(folder: Path) -> Facts:
        spec = ModelSpec(id="m", model_name=str(folder), dtype="float32")
        return local(spec, Config(device="cpu", model_cache_dir=tmp_path)).facts

    return loaded


@pytest.mark.parametrize(
    ("build", "activation"),
    [(rerankers.ms_marco_minilm, "identity"), (rerankers.bge_reranker_v2_m3, "sigmoid"),
     (rerankers.gte_reranker_modernbert, "sigmoid")],
)  # fmt: skip
def test_the_folder_says_what_is_made_of_the_raw_scores(
    build: Callable[[Path], None], activation: str, facts_of: Callable[[Path], Facts],
    tmp_path: Path,
) -> None:  # fmt: skip
    build(tmp_path / "m")
    facts = facts_of(tmp_path / "m")
    assert (facts.activation, facts.outputs) == (activation, ("score",))
    assert facts.labels == ("LABEL_0",), "as transformers names what the folder does not"


def test_a_single_label_has_its_own_name(facts_of: Callable[[Path], Facts], tmp_path: Path) -> None:
    named = {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}
    encoder(tmp_path / "m", "Bert", vocabularies.bert(), options=named)
    assert facts_of(tmp_path / "m").labels == ("relevance",)
    rerankers.causal_of_the_library(tmp_path / "causal")
    assert facts_of(tmp_path / "causal").labels == ("score",), "it has no head, and no labels"


@pytest.mark.parametrize(
    ("problem", "named", "activation"),
    [(None, None, "softmax"), ("single_label_classification", None, "softmax"),
     ("multi_label_classification", None, "sigmoid"), ("regression", None, "identity"),
     (None, IDENTITY, "softmax"), ("regression", IDENTITY, "identity"), (None, SIGMOID, "sigmoid"),
     ("regression", SIGMOID, "sigmoid"), ("multi_label_classification", SOFTMAX, "softmax")],
)  # fmt: skip
def test_several_scores_are_made_as_the_network_was_trained_for(
    problem: str | None, named: str | None, activation: str, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    own = {"sentence_transformers": {"activation_fn": named}} if named else {}
    options = {"problem_type": problem, **own}
    encoder(tmp_path / "m", "Bert", vocabularies.bert(), labels=5, options=options)
    assert activation_of(CrossEncoder(str(tmp_path / "m"), device="cpu")) == activation


def test_identity_is_no_choice_as_the_library_writes_it_into_every_classifier(
    tmp_path: Path,
) -> None:
    from sentence_transformers import CrossEncoder

    encoder(tmp_path / "m", "Bert", vocabularies.bert(), labels=3)
    CrossEncoder(str(tmp_path / "m"), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert IDENTITY in "".join(
        file.read_text(encoding="utf-8") for file in (tmp_path / "saved").glob("*.json")
    )
    assert activation_of(CrossEncoder(str(tmp_path / "saved"), device="cpu")) == "softmax"


@pytest.mark.parametrize(
    ("name", "why"), [("Tanh", "Tanh is not known"), ("Softmax", "makes 1 of every single score")]
)
def test_an_activation_that_cannot_be_used_is_refused(
    name: str, why: str, facts_of: Callable[[Path], Facts], tmp_path: Path
) -> None:
    options = {"sbert_ce_default_activation_function": f"torch.nn.modules.activation.{name}"}
    encoder(tmp_path / "m", "Bert", vocabularies.bert(), options=options)
    with pytest.raises(ModelUnavailable, match=why):
        facts_of(tmp_path / "m")
