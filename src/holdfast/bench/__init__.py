"""The bench: named data, streams of tasks, models, one plain training loop, records and reports.

Importing this package imports none of its wings, and so none of the optional packages that they need:
`holdfast.bench.data`, `holdfast.bench.training`, `holdfast.bench.report` are imported where they are used.
"""

from holdfast.bench import moved

moved.install()
