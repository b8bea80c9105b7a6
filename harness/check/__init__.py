"""Do all files of a run agree with its journal? Reads only."""
