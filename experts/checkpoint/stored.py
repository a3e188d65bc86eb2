"""What a checkpoint must hold: a tensor by name, shape and dtype."""

from dataclasses import dataclass

Shape = tuple[int, ...]

FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that the checkpoint must hold: name, shape and the dtypes it may have.

    `also` are other shapes of as many elements in the same order: publishers write one scale as [] or as [1].
    """

    name: str
    shape: Shape
    dtypes: tuple[str, ...] = FLOATS
    also: tuple[Shape, ...] = ()

    def entry_of(self, count: int) -> "Stored":
        """The tensor that holds `count` of these, one after the other."""
        also = tuple((count, *shape) for shape in self.also)
        return Stored(self.name, (count, *self.shape), self.dtypes, also)
