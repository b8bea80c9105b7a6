"""What kill_matrix.py, soak.py and golden.py share: small nights and ways to end them."""
