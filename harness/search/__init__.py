"""Search: the steering file, what may be proposed, by whom, and the rule that keeps or discards. No torch in here.

constants -> program -> patch, gate_policy -> gate_walk -> gate -> idea, ideas_*, bank, limits, known, past, response -> tpe -> keyless,
llm/ -> operators -> propose; quantiles -> keep stand alone.
"""
