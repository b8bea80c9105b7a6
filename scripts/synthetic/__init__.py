"""What is made up where nothing real is measured: landscapes of ideas, and texts."""
