"""Carries out the steps of a run; the only room that writes into its folder."""
