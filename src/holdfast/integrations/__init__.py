"""Where people train: other libraries' loops, models and checkpoints.

Each file imports the library it is named after when it is itself imported, is thin, and is imported by nothing else in
this package. What is here may import the core, and nothing of the bench.
"""
