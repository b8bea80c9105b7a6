"""Search: the steering file, what may be proposed, and by whom. No torch, and no run, in here.

constants -> program -> patch, gate_policy -> gate_walk -> gate -> bank/, limits, past, response_model -> tpe -> keyless,
llm/ -> turns -> propose.
"""
