"""The bank of ideas: what each changes in train.py, what is known of it, and the order in which they are tried."""
