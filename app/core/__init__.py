"""The pure core: arrays in, arrays out; no IO, no clock, no randomness, no logging.

Only numpy, scipy.special and the standard library are imported here (a contract enforces it).
"""
