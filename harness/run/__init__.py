"""One run, as its folder tells it: settings, journal, what the entries add up to, tables, git history. Decides nothing."""
