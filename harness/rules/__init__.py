"""What follows from a run's state: the next step, the decision, the quarantine. Pure: no files, no clocks."""
