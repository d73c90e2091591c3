"""Speed and memory of Holdfast beside plain PyTorch, measured in one run: ``python -m speed``."""
