"""What follows from a run's state: next step, decision, quarantine. Pure: no files, no clocks."""
