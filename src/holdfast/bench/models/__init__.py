"""The networks that the bench trains, by name: may import `data` and `records`."""

from holdfast.bench import moved

__getattr__ = moved.names_of("holdfast.bench.models")
