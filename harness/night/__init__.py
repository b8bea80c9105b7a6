"""A night's driver and what surrounds it, one idea from outside, one file by hand."""
