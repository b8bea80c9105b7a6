"""The bank of ideas: what each changes in train.py, what is known of it, and their order."""
