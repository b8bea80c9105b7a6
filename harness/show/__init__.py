"""What people see of runs: pages, charts, report, status. Reads only."""
