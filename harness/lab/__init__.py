"""Carries the steps of a run out, and is the only room that writes one."""
