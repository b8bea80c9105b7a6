"""The language model as a proposer: what it is told, how it is asked, how its reply becomes a
train.py. `converse` is where it comes together.

request, turn -> prompt -> client (endpoint, exchanges) -> reasoning, reply -> acceptance
    -> Proposal
"""
