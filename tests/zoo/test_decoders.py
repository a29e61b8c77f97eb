"""Embedding models made of decoders are served as the library runs them."""

from tests.zoo.likeness import Likeness


class TestDecoders(Likeness):
    families = ("decoders",)
