"""What kill_matrix.py, soak.py and golden.py share: small nights, their processes, and ways to end
them.
"""
