"""A service with a fake model of each kind, as the tests of the routes have it."""

from tests.routes.conftest import kinds, signed_in

__all__ = ["kinds", "signed_in"]
