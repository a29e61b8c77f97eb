"""BERT-like models, static ones and Routers are served as the library runs them; what is no
embedding model is refused by its name."""

from tests.zoo.layouts import LAYOUTS, Layout
from tests.zoo.likeness import Likeness
from tests.zoo.service import Service


class TestBertsAndParts(Likeness):
    families = ("bert", "parts")


class TestRefusals:
    families = ("refused",)

    def test_it_is_told_what_it_is_and_never_embeds(self, refused: tuple[Layout, Service]) -> None:
        kind, service = refused
        state = service.state("float32")
        assert state["status"] == "unavailable"
        assert kind.why in state["reason"], state["reason"]
        reply = service.post(["a text"], "float32")
        assert reply.status_code == 503
        assert kind.why in reply.json["error"]["message"]


def test_the_zoo_is_large() -> None:
    assert sum(not kind.why for kind in LAYOUTS.values()) >= 30
