"""Broken and hostile inputs, made by code: each gives a right result or one error, and harms nothing.

`launching` runs the command as a shell would, `judging` says what holds for every call, `kits` makes the healthy files
that a case starts from, `spoiling` has the ways to damage them. A file of tests covers one kind of input; its cases are
data, each a test of its own.
"""
