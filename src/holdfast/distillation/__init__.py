"""Methods that hold on to what the model answers."""
