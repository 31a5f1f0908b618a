"""All faults, in the order of their modules."""

from tests.stress.mutations import failures, objects, past, statements
from tests.stress.mutations.registry import MUTATIONS

__all__ = ["MUTATIONS", "failures", "objects", "past", "statements"]
