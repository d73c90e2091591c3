"""Runs as jobs, done here, in other processes or on a cluster: may import `training` and what is below it."""

from holdfast.bench import moved

__getattr__ = moved.names_of("holdfast.bench.jobs")
