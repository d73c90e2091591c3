"""Methods that hold weights exactly, by editing gradients and putting weights back."""
