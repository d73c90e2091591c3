"""The version, said once: the package, records, cards, checkpoints and ``holdfast --version`` read it here."""

__all__ = ["__version__"]

__version__ = "0.2.0"
