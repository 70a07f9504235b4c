"""The pipeline file: its parts as typed values (`spec`), each part's reader, and the expression language of features.

`file.load` reads a file into a `spec.Pipeline`, or says in one sentence what is wrong with it.
"""
