"""What every room stands on: files, locks, clocks, text, Student's t. Standard library alone; knows nothing of a run."""
