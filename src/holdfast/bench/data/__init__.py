"""Named and own data as tensors, and the streams of tasks made of them: may import `records`."""

from holdfast.bench import moved

__getattr__ = moved.names_of("holdfast.bench.data")
