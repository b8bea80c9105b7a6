"""What every room stands on: files, locks, clocks, text, Student's t. It knows nothing of a run."""
