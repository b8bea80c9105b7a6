"""The figures: scores over a night, and how its trainings went."""
