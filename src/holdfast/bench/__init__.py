"""The bench: named data, streams of tasks, models, one plain training loop, records and reports.

Importing this package imports none of its parts, and so none of the optional packages that they need:
`holdfast.bench.data`, `holdfast.bench.streams`, `holdfast.bench.models` are imported where they are used.
"""
