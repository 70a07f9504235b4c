"""The pure core: arrays in, arrays out; no IO, no clock, no randomness, no logging.

Only numpy, scipy.special, msgspec (bytes to values and back) and the standard library are imported here; a contract and
a test enforce it.
"""
