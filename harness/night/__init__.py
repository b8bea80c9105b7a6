"""A night's driver and what surrounds it: wishes, notebooks, the terminal, one idea from outside, one file by hand."""
