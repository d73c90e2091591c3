"""A trained model as a folder that others can load, with its card: may import `training` and what is below."""

from holdfast.bench import moved

__getattr__ = moved.names_of("holdfast.bench.export")
