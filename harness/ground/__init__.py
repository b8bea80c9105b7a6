"""What all other rooms use: files, locks, clocks, text, Student's t. It knows nothing of a run."""
