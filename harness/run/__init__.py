"""One run, as its folder tells it: settings, journal, state, tables, git history."""
