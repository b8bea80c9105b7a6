"""Runs nights: driver, terminal, requests; also one idea (`try`) and one file by hand (`train`)."""
