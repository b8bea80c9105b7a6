"""The night itself: journal, runner, results, git history, loop, and what is shown of them (plots, pages, report)."""
