"""Where we stand: every figure is a ratio within one run, against the limit and against what one would use instead.

`python -m benchmarks` measures, writes results.json, and makes docs/benchmarks.md and its plots of nothing else.
"""
