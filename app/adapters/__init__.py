"""One package per outside system, thin: translate, call, translate. Only these import its library.

What stands beside the packages serves several: patience, work in a thread of its own, detectors of river, rows on disk.
"""
