"""Encoders that are no BERT are served as the library runs them."""

from tests.zoo.likeness import Likeness


class TestEncoders(Likeness):
    families = ("encoders",)
