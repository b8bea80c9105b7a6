"""Search: the steering file, what may be proposed, and by whom. No torch, and no run, in here.

constants -> program, gate_policy, patch -> gate_walk -> gate -> limits -> tried, response_model,
bank/ -> tpe -> keyless, turns, llm/ -> propose.
"""
