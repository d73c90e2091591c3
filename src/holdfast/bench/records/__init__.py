"""What a run leaves behind, how it was chosen, and how many runs are searched: it knows nobody else in the bench."""
