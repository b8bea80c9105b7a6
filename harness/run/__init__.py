"""One run, as its folder tells it: settings, journal, state, table, git history. Decides nothing."""
