"""The evaluation report: marts in, one self-contained page with its tables and charts out.

It computes no metric: every figure it shows was computed by a mart.
"""
